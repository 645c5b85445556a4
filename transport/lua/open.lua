-- Opens a session: all its keys exist, each with a time to live, before anybody hears of it.
-- KEYS state, tokens, frames, events, control, dead   ARGV opening, seconds to live, opened_ms
-- Returns the id of the opening entry, or an error where the session exists.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return redis.error_reply('EXISTS this session is open already')
end
redis.call('HSET', KEYS[1], 'status', 'open', 'epoch', 0, 'window', -1)
local opened = redis.call('XADD', KEYS[2], '*', 'e', ARGV[1])
redis.call('HSET', KEYS[1], 'opened', opened, 'cut', opened)
for i = 3, 6 do -- an empty stream, so that later writers need never create one (NOMKSTREAM)
  redis.call('XGROUP', 'CREATE', KEYS[i], 'empty', 0, 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', KEYS[i], 'empty')
end
for i = 1, 6 do
  redis.call('EXPIRE', KEYS[i], ARGV[2])
end
return opened
