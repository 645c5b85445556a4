-- Commits one window: exactly once, by the session's present owner, after every entry of the window was read.
-- KEYS state, tokens, frames, control, dead
-- ARGV  1 epoch  2 window k  3 cut  4 the window's last ms  5 frame  6 frames' MAXLEN  7 progress
--       8 checkpoint or ''  9 number of marks for the token stream  10 status  11 reason  12 retention in seconds (0: the session stays open)
--       13 MAXLEN of control and dead  14 the frame's nonce  15 number of control entries, then the marks, then the
--       control entries, then pairs of dead entries (id, bytes)
-- Returns OK; GONE; STALE: another process owns the session; 'WINDOW n': n is the last committed window; or AGAIN: the
-- window has entries after the cut.
local state = redis.call('HMGET', KEYS[1], 'epoch', 'window', 'cut')
if not state[1] then return 'GONE' end
if state[1] ~= ARGV[1] then return 'STALE' end
local k = tonumber(ARGV[2])
if tonumber(state[2]) ~= k - 1 then return 'WINDOW ' .. state[2] end

local last_ms = tonumber(ARGV[4])
local later = redis.call('XRANGE', KEYS[2], '(' .. ARGV[3], '+', 'COUNT', 1)[1]
if later and tonumber(string.match(later[1], '^(%d+)')) <= last_ms then return 'AGAIN' end

-- The frame is written first: where memory is short, Redis refuses it and nothing is written. A frame that exists already
-- (Redis was set back) is the same frame, because frames are a pure function of the token stream.
local added = redis.pcall('XADD', KEYS[3], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[6], (k + 1) .. '-0', 'e', ARGV[5], 'n', ARGV[14])
if type(added) == 'table' and added.err and not string.find(added.err, 'equal or smaller', 1, true) then
  return redis.error_reply(added.err)
end
-- Seals the window: no later entry can get an id inside it, even if a clock is set back. An entry after it seals it too.
if not later then
  redis.call('XSETID', KEYS[2], ARGV[4] .. '-18446744073709551615')
end

local marks = tonumber(ARGV[9])
local controls = tonumber(ARGV[15])
for i = 16 + marks, 15 + marks + controls do
  redis.call('XADD', KEYS[4], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[13], '*', 'e', ARGV[i])
end
for i = 16 + marks + controls, #ARGV, 2 do
  redis.call('XADD', KEYS[5], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[13], '*', 'id', ARGV[i], 'e', ARGV[i + 1])
end
redis.call('HSET', KEYS[1], 'window', k, 'cut', ARGV[3], 'progress', ARGV[7], 'status', ARGV[10])
if ARGV[8] ~= '' then redis.call('HSET', KEYS[1], 'checkpoint', ARGV[8]) end
if ARGV[11] ~= '' then redis.call('HSET', KEYS[1], 'reason', ARGV[11]) end
for i = 16, 15 + marks do redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', 'e', ARGV[i]) end
if ARGV[12] ~= '0' then
  for i = 1, 5 do redis.call('EXPIRE', KEYS[i], ARGV[12]) end
end
return 'OK'
