-- KEYS: when clients expire, clients. ARGV: the second that it is, '1' if fields expire.
-- Returns clients and their infos in turn.
if ARGV[2] ~= '1' then
  local gone = redis.call('zrangebyscore', KEYS[1], '0', ARGV[1])
  for _, client in ipairs(gone) do redis.call('hdel', KEYS[2], client) end
  if #gone > 0 then redis.call('zremrangebyscore', KEYS[1], '0', ARGV[1]) end
end
return redis.call('hgetall', KEYS[2])
