-- KEYS: list, its meta.
-- ARGV: '1' to read publications, index of the last item, seconds the meta lives ('0' = for ever), epoch for a list that
-- has none.
-- Returns: the offset at its top, epoch, items, newest first.
local meta = redis.call('hmget', KEYS[2], 'e', 's')
local epoch, top = meta[1], meta[2] or '0'
if not epoch then
  epoch = ARGV[4]
  redis.call('hset', KEYS[2], 'e', epoch)
end
if ARGV[3] ~= '0' then redis.call('expire', KEYS[2], ARGV[3]) end
local items = {}
if ARGV[1] == '1' and top ~= '0' then items = redis.call('lrange', KEYS[1], 0, ARGV[2]) end
return { top, epoch, items }
