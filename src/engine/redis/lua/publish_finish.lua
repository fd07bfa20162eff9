redis.call('expire', kept, ARGV[3])
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
