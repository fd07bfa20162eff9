-- KEYS: when clients expire, clients, when users expire, users.
-- ARGV: client, user, '1' if users are counted, '1' if fields expire.
local expiry, clients, user_expiry, users = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local fields_expire = ARGV[4] == '1'
local was_there = redis.call('hdel', clients, ARGV[1]) == 1
if not fields_expire then redis.call('zrem', expiry, ARGV[1]) end
if ARGV[3] == '1' and was_there and redis.call('hincrby', users, ARGV[2], -1) <= 0 then
  redis.call('hdel', users, ARGV[2])
  if not fields_expire then redis.call('zrem', user_expiry, ARGV[2]) end
end
return 1
