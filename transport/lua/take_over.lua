-- Gives a session a new owner: from then on commits of earlier owners are STALE.
-- KEYS state, tokens, frames   ARGV (none)
-- Returns {status, epoch, window, cut, checkpoint or '', opening's id, opening, the last frame or '', milliseconds of Redis's
-- clock when this server first gave the session an owner (0: it has had the session from its opening on)}; status GONE where
-- the session expired.
local state = redis.call('HMGET', KEYS[1], 'status', 'window', 'cut', 'checkpoint', 'opened', 'server', 'served')
if not state[1] then
  return {'GONE'}
end
local opening = redis.call('XRANGE', KEYS[2], state[5], state[5])[1]
if not opening then
  return {'GONE'}
end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
-- Each start of a server draws a new run_id. Another one than last time means that Redis was restarted, or that a replica
-- took its place: windows before now may have been committed there and lost. Without the right to INFO it is not known.
local info = redis.pcall('INFO', 'server')
local server = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
local served = state[7]
if not served or state[6] ~= server then
  local time = redis.call('TIME')
  served = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('HSET', KEYS[1], 'server', server, 'served', served)
end
local frame = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
local last = frame and frame[2][2] or ''
return {state[1], epoch, state[2], state[3], state[4] or '', state[5], opening[2][2], last, served}
