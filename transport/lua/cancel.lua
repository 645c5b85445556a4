-- Cancels members: writes a mark into the token stream, and an order to the producers, which act before the next window.
-- KEYS state, tokens, control   ARGV mark, order, MAXLEN of control
-- Returns the session's status before, or GONE.
local state = redis.call('HMGET', KEYS[1], 'status', 'clock')
if not state[1] then return 'GONE' end
if state[1] == 'open' then
  local id = '*'
  if state[2] then
    -- In a replay the mark has the replay's own time, and the clock moves by two windows, so that the mark takes effect in a
    -- paused replay too. All recorded entries before that time are written, so none can come before the mark.
    id = state[2] .. '-18446744073709551614'
    redis.call('HSET', KEYS[1], 'clock', state[2] + 34)
  end
  redis.call('XADD', KEYS[2], 'NOMKSTREAM', id, 'e', ARGV[1])
  redis.call('XADD', KEYS[3], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[3], '*', 'e', ARGV[2])
end
return state[1]
