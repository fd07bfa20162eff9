-- KEYS: stream, its meta.
-- ARGV: '1' to read publications, offset to begin at ('0' = the end that is read from), most of them ('0' = all), '1' for
-- the newest first, seconds the meta lives ('0' = for ever), epoch for a stream that has none.
-- Returns: the offset at its top, epoch, entries.
local meta = redis.call('hmget', KEYS[2], 'e', 's')
local epoch, top = meta[1], meta[2] or '0'
if not epoch then
  epoch = ARGV[6]
  redis.call('hset', KEYS[2], 'e', epoch)
end
if ARGV[5] ~= '0' then redis.call('expire', KEYS[2], ARGV[5]) end
local entries = {}
-- Without an offset there is nothing: a stream that is left belongs to another life.
if ARGV[1] == '1' and top ~= '0' then
  local command, from, to = 'xrange', ARGV[2], '+'
  if ARGV[4] == '1' then
    command, from, to = 'xrevrange', ARGV[2], '-'
    if from == '0' then from = '+' end
  end
  if ARGV[3] == '0' then
    entries = redis.call(command, KEYS[1], from, to)
  else
    entries = redis.call(command, KEYS[1], from, to, 'COUNT', ARGV[3])
  end
end
return { top, epoch, entries }
