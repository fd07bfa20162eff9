-- Publishes what is not kept, once for an idempotency key.
-- KEYS: result of the key. ARGV: message, PUB/SUB channel, command to publish by, seconds the result lives.
local known = redis.call('hmget', KEYS[1], 'e', 's')
if known[1] then return { known[2] or '0', known[1], '1', '0' } end
redis.call(ARGV[3], ARGV[2], ARGV[1])
redis.call('hset', KEYS[1], 'e', '')
redis.call('expire', KEYS[1], ARGV[4])
return { '0', '', '0', '0' }
