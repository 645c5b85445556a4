-- Gives a session a new owner: from then on commits of earlier owners are STALE.
-- KEYS state, tokens, frames   ARGV (none)
-- Returns {status, epoch, window, cut, checkpoint or '', opening's id, opening, the last frame or ''}; status GONE where the
-- session expired.
local state = redis.call('HMGET', KEYS[1], 'status', 'window', 'cut', 'checkpoint', 'opened')
if not state[1] then
  return {'GONE'}
end
local opening = redis.call('XRANGE', KEYS[2], state[5], state[5])[1]
if not opening then
  return {'GONE'}
end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
local frame = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
return {state[1], epoch, state[2], state[3], state[4] or '', state[5], opening[2][2], frame and frame[2][2] or ''}
