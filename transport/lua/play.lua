-- Writes the next part of a replay: recorded entries under their recorded ids, and the replay's clock.
-- An entry that exists already is skipped, so that the same part may be written again after a lost reply, or by another
-- process.
-- KEYS state, tokens, frames, events, control, dead
-- ARGV  1 the clock in ms ('': unchanged): every recorded entry before it is written  2 playback  3 seconds to live (0:
--       unchanged)  4 the last entry that was written before ('': unknown), then pairs of id and entry
-- Returns {GONE, LOST or the session's status, the last committed window, the id of the last entry}. LOST: Redis was set
-- back before ARGV[4], and nothing is written, because the missing entries must be written first.
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return {'GONE', '-1', ''} end
local window = redis.call('HGET', KEYS[1], 'window')

local function last_id()
  local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  return last and last[1] or ''
end
local function comes_before(one, other)
  local ms, n = string.match(one, '^(%d+)-(%d+)$')
  local other_ms, other_n = string.match(other, '^(%d+)-(%d+)$')
  if not ms then return true end
  if ms ~= other_ms then return tonumber(ms) < tonumber(other_ms) end
  return tonumber(n) < tonumber(other_n)
end

local last = last_id()
if ARGV[4] ~= '' and comes_before(last, ARGV[4]) then return {'LOST', window, last} end
if status == 'open' then
  for i = 5, #ARGV, 2 do
    local added = redis.pcall('XADD', KEYS[2], 'NOMKSTREAM', ARGV[i], 'e', ARGV[i + 1])
    if type(added) == 'table' and added.err and not string.find(added.err, 'equal or smaller', 1, true) then
      return redis.error_reply(added.err)
    end
  end
  local clock = redis.call('HGET', KEYS[1], 'clock')
  if ARGV[1] ~= '' and tonumber(ARGV[1]) > tonumber(clock) then redis.call('HSET', KEYS[1], 'clock', ARGV[1]) end
  if #ARGV > 4 then last = last_id() end
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'playback', ARGV[2], 'played', time[1] * 1000 + math.floor(time[2] / 1000))
if ARGV[3] ~= '0' then
  for i = 1, #KEYS do redis.call('EXPIRE', KEYS[i], ARGV[3]) end
end
return {status, window, last}
