-- A person's wish to stop members: a mark in the truth, and a word to the producers, who may be quicker than a window.
-- KEYS state, tokens, control   ARGV mark, word, MAXLEN of control
-- Returns the session's status before, or GONE.
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return 'GONE' end
if status == 'open' then
  redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', 'e', ARGV[1])
  redis.call('XADD', KEYS[3], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[3], '*', 'e', ARGV[2])
end
return status
