-- A person's wish to stop members: a mark in the truth, and a word to the producers, who may be quicker than a window.
-- KEYS state, tokens, control   ARGV mark, word, MAXLEN of control
-- Returns the session's status before, or GONE.
local state = redis.call('HMGET', KEYS[1], 'status', 'clock')
if not state[1] then return 'GONE' end
if state[1] == 'open' then
  local id = '*'
  if state[2] then
    -- A replay: the mark belongs to the replay's own time, which goes on by two windows, so that it takes effect although
    -- the replay is paused. All recorded entries before that time are written; a later one cannot come before the mark.
    id = state[2] .. '-18446744073709551614'
    redis.call('HSET', KEYS[1], 'clock', state[2] + 34)
  end
  redis.call('XADD', KEYS[2], 'NOMKSTREAM', id, 'e', ARGV[1])
  redis.call('XADD', KEYS[3], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[3], '*', 'e', ARGV[2])
end
return state[1]
