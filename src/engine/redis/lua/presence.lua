-- KEYS: when clients expire, clients. ARGV: the second that it is, '1' if fields expire, most clients ('0' = any number).
-- Returns clients and their infos in turn; nothing if there are more.
if ARGV[2] ~= '1' then
  local gone = redis.call('zrangebyscore', KEYS[1], '0', ARGV[1])
  for _, client in ipairs(gone) do redis.call('hdel', KEYS[2], client) end
  if #gone > 0 then redis.call('zremrangebyscore', KEYS[1], '0', ARGV[1]) end
end
if ARGV[3] ~= '0' and redis.call('hlen', KEYS[2]) > tonumber(ARGV[3]) then return false end
return redis.call('hgetall', KEYS[2])
