-- Gives a publication its place in a stream and publishes it, as one step.
-- KEYS: stream, its meta, result of the idempotency key.
-- ARGV: message, size, seconds the stream lives, PUB/SUB channel ('' = none), seconds the meta lives ('0' = for ever),
-- epoch for a stream that has none, command to publish by, seconds the result lives ('' = there is no key),
-- '1' for a delta, version ('0' = none), epoch of versions.
-- Returns: offset, epoch, '1' if the result was there, '1' if the version was not above the latest.
local stream, meta, result = KEYS[1], KEYS[2], KEYS[3]
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
if ARGV[10] ~= '0' then
  local latest = redis.call('hmget', meta, 'v', 've', 's')
  local same = ARGV[11] == '' or ARGV[11] == latest[2]
  if latest[1] and same and tonumber(latest[1]) >= tonumber(ARGV[10]) then
    return { latest[3] or '0', epoch, '0', '1' }
  end
  redis.call('hset', meta, 'v', ARGV[10], 've', ARGV[11])
end
local offset = redis.call('hincrby', meta, 's', 1)
if ARGV[5] ~= '0' then redis.call('expire', meta, ARGV[5]) end
local previous = ''
if ARGV[9] == '1' and offset ~= 1 then
  local last = redis.call('xrevrange', stream, '+', '-', 'COUNT', 1)
  if last[1] then previous = last[1][2][2] end
end
-- The meta was gone: what is left of the stream is of another life.
if offset == 1 then redis.call('del', stream) end
redis.call('xadd', stream, 'MAXLEN', ARGV[2], offset, 'd', message)
redis.call('expire', stream, ARGV[3])
if channel ~= '' then
  local payload
  if ARGV[9] == '1' then
    payload = '__d1:' .. offset .. ':' .. epoch .. ':' .. #previous .. ':' .. previous .. ':' .. #message .. ':' .. message
  else
    payload = '__p1:' .. offset .. ':' .. epoch .. '__' .. message
  end
  redis.call(ARGV[7], channel, payload)
end
if result_ttl ~= '' then
  redis.call('hset', result, 'e', epoch, 's', offset)
  redis.call('expire', result, result_ttl)
end
return { offset, epoch, '0', '0' }
