-- What DECIPHER composed from frames, once: the cursor moves with the events.
-- KEYS state, events   ARGV cursor before, cursor after, MAXLEN, seconds to live (0: leave), then pairs of id and event
-- Returns {OK or MOVED or GONE, the cursor}
local state = redis.call('HMGET', KEYS[1], 'status', 'decipher')
if not state[1] then return {'GONE', ''} end
local cursor = state[2] or '0-0'
if cursor ~= ARGV[1] then return {'MOVED', cursor} end
for i = 5, #ARGV, 2 do
  redis.call('XADD', KEYS[2], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[3], ARGV[i], 'e', ARGV[i + 1])
end
redis.call('HSET', KEYS[1], 'decipher', ARGV[2])
if ARGV[4] ~= '0' then redis.call('EXPIRE', KEYS[2], ARGV[4]) end
return {'OK', ARGV[2]}
