-- Writes the events that DECIPHER composed from frames, each once: the cursor moves with the events.
-- KEYS state, events, frames   ARGV  1 cursor before  2 cursor after  3 MAXLEN  4 seconds to live (0: the session stays open)
--       5 DECIPHER's checkpoint  6 the standing events  7 the session's phase  8 nonce of these events
--       9 nonce of the frame at the cursor after, or '' where it has none  10 the errors for later clients, or '' where
--       they are as before, then pairs of id and event
-- Returns {OK, GONE or MOVED: another DECIPHER moved the cursor, or Redis lost the frame of which this was composed; the
-- cursor; the last committed window}
local state = redis.call('HMGET', KEYS[1], 'status', 'decipher', 'window')
if not state[1] then return {'GONE', '', ''} end
local cursor = state[2] or '0-0'
if cursor ~= ARGV[1] then return {'MOVED', cursor, state[3]} end
if ARGV[9] ~= '' then
  local frame = redis.call('XRANGE', KEYS[3], ARGV[2], ARGV[2])[1]
  if not frame or frame[2][4] ~= ARGV[9] then return {'MOVED', cursor, state[3]} end
end
for i = 11, #ARGV, 2 do
  -- An event that exists already (Redis lost the end of this script when it crashed) was composed from the same frame.
  local added = redis.pcall(
    'XADD', KEYS[2], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[3], ARGV[i], 'e', ARGV[i + 1], 'n', ARGV[8])
  if type(added) == 'table' and added.err and not string.find(added.err, 'equal or smaller', 1, true) then
    return redis.error_reply(added.err)
  end
end
redis.call('HSET', KEYS[1], 'decipher', ARGV[2], 'composer', ARGV[5], 'standing', ARGV[6], 'phase', ARGV[7])
if ARGV[10] ~= '' then redis.call('HSET', KEYS[1], 'errors', ARGV[10]) end
if ARGV[4] ~= '0' then
  redis.call('HSET', KEYS[1], 'composed', 1)
  redis.call('EXPIRE', KEYS[2], ARGV[4])
end
return {'OK', ARGV[2], state[3]}
