-- Ends a session that cannot go on, without a last frame: its readers learn why from its state, its producers stop.
-- KEYS state, control, then the session's other keys   ARGV epoch of the caller, reason, word to the producers, MAXLEN of
-- control, retention in seconds
-- Returns OK, GONE, or STALE: another owner has taken it over, and it is for that one to say.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then return 'GONE' end
if epoch ~= ARGV[1] then return 'STALE' end
redis.call('HSET', KEYS[1], 'status', 'ended', 'reason', ARGV[2])
redis.call('XADD', KEYS[2], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[4], '*', 'e', ARGV[3])
for i = 1, #KEYS do redis.call('EXPIRE', KEYS[i], ARGV[5]) end
return 'OK'
