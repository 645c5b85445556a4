-- Opens a session: all its keys exist, each with a time to live, before it is announced.
-- KEYS state, tokens, frames, events, control, dead   ARGV opening, seconds to live, id of the opening (absent or '*': now;
-- for a replay the recorded one)
-- Returns the id of the opening entry, or an error where the session exists.
local id = ARGV[3] or '*'
if redis.call('EXISTS', KEYS[1]) == 1 then
  return redis.error_reply('EXISTS this session is open already')
end
redis.call('HSET', KEYS[1], 'status', 'open', 'epoch', 0, 'window', -1)
-- The server that has the session from its beginning, by the run_id that each start of a server draws: see take_over.lua.
local info = redis.pcall('INFO', 'server')
redis.call('HSET', KEYS[1], 'server', type(info) == 'string' and string.match(info, 'run_id:(%x+)') or '', 'served', 0)
local opened = redis.call('XADD', KEYS[2], id, 'e', ARGV[1])
redis.call('HSET', KEYS[1], 'opened', opened, 'cut', opened)
if id ~= '*' then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('HSET', KEYS[1], 'clock', string.match(opened, '^(%d+)'), 'began', now, 'played', now)
end
for i = 3, 6 do -- creates an empty stream, so that later writers never create one (NOMKSTREAM)
  redis.call('XGROUP', 'CREATE', KEYS[i], 'empty', 0, 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', KEYS[i], 'empty')
end
for i = 1, 6 do
  redis.call('EXPIRE', KEYS[i], ARGV[2])
end
return opened
