-- Ends a session without a last frame: its readers find the reason in its state, its producers stop.
-- KEYS state, control, then the session's other keys   ARGV epoch of the caller, reason, order to the producers, MAXLEN of
-- control, retention in seconds
-- Returns OK, GONE, or STALE: another process owns the session.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then return 'GONE' end
if epoch ~= ARGV[1] then return 'STALE' end
redis.call('HSET', KEYS[1], 'status', 'ended', 'reason', ARGV[2])
redis.call('XADD', KEYS[2], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[4], '*', 'e', ARGV[3])
for i = 1, #KEYS do redis.call('EXPIRE', KEYS[i], ARGV[5]) end
return 'OK'
