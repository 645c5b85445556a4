-- The next part of a replay: recorded entries under their recorded ids, and the replay's clock.
-- An entry that is there already is passed over, so that a lost reply, or another process, may write the same again.
-- KEYS state, tokens, frames, events, control, dead
-- ARGV  1 the clock in ms ('': as it is): every recorded entry before it is written  2 playback  3 seconds to live (0: as
--       they are), then pairs of id and entry
-- Returns {GONE, or the session's status, the last committed window, the id of the last entry}
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return {'GONE', '-1', ''} end
if status == 'open' then
  for i = 4, #ARGV, 2 do
    local added = redis.pcall('XADD', KEYS[2], 'NOMKSTREAM', ARGV[i], 'e', ARGV[i + 1])
    if type(added) == 'table' and added.err and not string.find(added.err, 'equal or smaller', 1, true) then
      return redis.error_reply(added.err)
    end
  end
  local clock = redis.call('HGET', KEYS[1], 'clock')
  if ARGV[1] ~= '' and tonumber(ARGV[1]) > tonumber(clock) then redis.call('HSET', KEYS[1], 'clock', ARGV[1]) end
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'playback', ARGV[2], 'played', time[1] * 1000 + math.floor(time[2] / 1000))
if ARGV[3] ~= '0' then
  for i = 1, #KEYS do redis.call('EXPIRE', KEYS[i], ARGV[3]) end
end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
return {status, redis.call('HGET', KEYS[1], 'window'), last and last[1] or ''}
