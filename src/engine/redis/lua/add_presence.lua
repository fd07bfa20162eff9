-- KEYS: when clients expire, clients, when users expire, users.
-- ARGV: seconds to live, the second of expiry, client, its info, user, '1' if users are counted, '1' if fields expire.
local expiry, clients, user_expiry, users = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local ttl, at, client, user, fields_expire = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[7] == '1'
local is_new = redis.call('hset', clients, client, ARGV[4]) == 1
redis.call('expire', clients, ttl)
if fields_expire then
  redis.call('hexpire', clients, ttl, 'FIELDS', 1, client)
else
  redis.call('zadd', expiry, at, client)
  redis.call('expire', expiry, ttl)
end
if ARGV[6] == '1' then
  if is_new then redis.call('hincrby', users, user, 1) end
  redis.call('expire', users, ttl)
  if fields_expire then
    redis.call('hexpire', users, ttl, 'FIELDS', 1, user)
  else
    redis.call('zadd', user_expiry, at, user)
    redis.call('expire', user_expiry, ttl)
  end
end
return 1
