-- Ends a session that cannot go on, without a last frame: its readers learn why from its state, its producers stop.
-- KEYS state, control   ARGV reason, word to the producers, MAXLEN of control
if redis.call('EXISTS', KEYS[1]) == 0 then return 'GONE' end
redis.call('HSET', KEYS[1], 'status', 'ended', 'reason', ARGV[1])
redis.call('XADD', KEYS[2], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[3], '*', 'e', ARGV[2])
return 'OK'
