if wants_previous then
  local last = redis.call('xrevrange', kept, '+', '-', 'COUNT', 1)
  if last[1] then previous = last[1][2][2] end
end
redis.call('xadd', kept, 'MAXLEN', ARGV[2], offset, 'd', message)
