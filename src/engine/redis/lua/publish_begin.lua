-- Gives a publication its place and publishes it, as one step. This is the beginning; between it and the end (`finish`)
-- stands how it is kept: in a stream, or in a list.
-- KEYS: where it is kept, its meta, result of the idempotency key.
-- ARGV: message, how much is kept, seconds it lives, PUB/SUB channel ('' = none), seconds the meta lives ('0' = for
-- ever), epoch if there is none, command to publish by, seconds the result lives ('' = there is no key), '1' for a
-- delta, and of streams alone: version ('0' = none), epoch of versions.
-- Returns: offset, epoch, '1' if the result was there, '1' if the version was not above the latest.
local kept, meta, result = KEYS[1], KEYS[2], KEYS[3]
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
if ARGV[10] and ARGV[10] ~= '0' then
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
local wants_previous = ARGV[9] == '1' and offset ~= 1
-- The meta was gone: what is left is of another life.
if offset == 1 then redis.call('del', kept) end
local placed = '__p1:' .. offset .. ':' .. epoch .. '__' .. message
