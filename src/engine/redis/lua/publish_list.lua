-- How much is kept: the index of the last item.
if wants_previous then
  local last = redis.call('lindex', kept, 0)
  if last then
    local mark = string.find(last, '__', 3, true)
    if mark then previous = string.sub(last, mark + 2) end
  end
end
redis.call('lpush', kept, placed)
redis.call('ltrim', kept, 0, ARGV[2])
