-- Shows a recorded frame in a replay whose frames no aggregator computes.
-- KEYS state, frames, the session's other keys
-- ARGV  1 window k  2 cut  3 frame  4 frames' MAXLEN  5 progress  6 status  7 retention in seconds (0: the
--       session stays open)  8 the window that was shown before
-- Returns the last window that is shown. Nothing is changed where that is not ARGV[8]: Redis was set back, or this frame is
-- shown already.
local state = redis.call('HMGET', KEYS[1], 'status', 'window')
if not state[1] then return -1 end
local k = tonumber(ARGV[1])
if state[1] ~= 'open' or state[2] ~= ARGV[8] then return tonumber(state[2]) end
local added = redis.pcall('XADD', KEYS[2], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[4], (k + 1) .. '-0', 'e', ARGV[3])
if type(added) == 'table' and added.err and not string.find(added.err, 'equal or smaller', 1, true) then
  return redis.error_reply(added.err)
end
redis.call('HSET', KEYS[1], 'window', k, 'cut', ARGV[2], 'progress', ARGV[5], 'status', ARGV[6])
if ARGV[7] ~= '0' then
  for i = 1, #KEYS do redis.call('EXPIRE', KEYS[i], ARGV[7]) end
end
return k
