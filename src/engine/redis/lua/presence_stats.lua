-- KEYS: when clients expire, clients, when users expire, users. ARGV: the second that it is, '1' if fields expire.
-- Returns how many clients and how many users. Only where users are counted.
local function expire(expiry, hash)
  local gone = redis.call('zrangebyscore', expiry, '0', ARGV[1])
  for _, field in ipairs(gone) do redis.call('hdel', hash, field) end
  if #gone > 0 then redis.call('zremrangebyscore', expiry, '0', ARGV[1]) end
end
if ARGV[2] ~= '1' then
  expire(KEYS[1], KEYS[2])
  expire(KEYS[3], KEYS[4])
end
return { redis.call('hlen', KEYS[2]), redis.call('hlen', KEYS[4]) }
