-- The same with a list in place of a stream. There are no versions.
-- KEYS: list, its meta, result of the idempotency key.
-- ARGV: message, index of the last item kept, seconds the list lives, PUB/SUB channel ('' = none), seconds the meta
-- lives ('0' = for ever), epoch for a list that has none, command to publish by, seconds the result lives
-- ('' = there is no key), '1' for a delta.
local list, meta, result = KEYS[1], KEYS[2], KEYS[3]
local message, channel, result_ttl = ARGV[1], ARGV[4], ARGV[8]
if result_ttl ~= '' then
  local known = redis.call('hmget', result, 'e', 's')
  if known[1] then return { known[2], known[1], '1', '0' } end
end
local epoch = redis.call('hget', meta, 'e')
if not epoch then
  epoch = ARGV[6]
  redis.call('hset', meta, 'e', epoch)
end
local offset = redis.call('hincrby', meta, 's', 1)
if ARGV[5] ~= '0' then redis.call('expire', meta, ARGV[5]) end
local previous = ''
if ARGV[9] == '1' and offset ~= 1 then
  local last = redis.call('lindex', list, 0)
  if last then
    local mark = string.find(last, '__', 3, true)
    if mark then previous = string.sub(last, mark + 2) end
  end
end
if offset == 1 then redis.call('del', list) end
local placed = '__p1:' .. offset .. ':' .. epoch .. '__' .. message
redis.call('lpush', list, placed)
redis.call('ltrim', list, 0, ARGV[2])
redis.call('expire', list, ARGV[3])
if channel ~= '' then
  local payload = placed
  if ARGV[9] == '1' then
    payload = '__d1:' .. offset .. ':' .. epoch .. ':' .. #previous .. ':' .. previous .. ':' .. #message .. ':' .. message
  end
  redis.call(ARGV[7], channel, payload)
end
if result_ttl ~= '' then
  redis.call('hset', result, 'e', epoch, 's', offset)
  redis.call('expire', result, result_ttl)
end
return { offset, epoch, '0', '0' }
