-- KEYS: cursors of a channel.
-- ARGV: name, offset, epoch, milliseconds to live.
-- In one epoch a cursor only moves on, whichever node is the last to say where it is.
local known = redis.call('hget', KEYS[1], ARGV[1])
local offset, epoch = string.match(known or '', '^(%d+) (.*)$')
if epoch ~= ARGV[3] or tonumber(offset) < tonumber(ARGV[2]) then
  redis.call('hset', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
end
redis.call('pexpire', KEYS[1], ARGV[4])
return 1
