-- One step of a consumer's leases on the sessions stream: refresh its own, take over what others left.
-- A lease is a pending entry. Only what is still ours is claimed again: a plain XCLAIM lets a paused owner that wakes up
-- steal it back from whoever took it over.
-- KEYS sessions   ARGV group, consumer, idle_ms, how many to take over, the idle time that the held ones get (0: a refresh;
-- a large one hands them over), within how many ms a consumer that is there was seen, then pairs: an entry id held, and 1 where
-- its session has gone on well, else 0
-- Returns {ids still held, {id, session, deliveries} of each one taken over, 1 where another consumer may leave a session}
local group, consumer, idle_ms, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local held, taken = {}, {}
for i = 7, #ARGV, 2 do
  local mine = redis.call('XPENDING', KEYS[1], group, ARGV[i], ARGV[i], 1)
  if mine[1] and mine[1][2] == consumer then
    local deliveries = mine[1][4]
    -- Those before died of something else, if it goes on well here.
    if ARGV[i + 1] == '1' then deliveries = 1 end
    -- Who says goodbye did not die of the session: that is no delivery, or the tenth rolling restart would end it.
    if ARGV[5] ~= '0' then deliveries = math.max(deliveries - 1, 0) end
    redis.call('XCLAIM', KEYS[1], group, consumer, 0, ARGV[i], 'IDLE', ARGV[5], 'RETRYCOUNT', deliveries, 'JUSTID')
    held[#held + 1] = ARGV[i]
  end
end
if most > 0 then
  local left = redis.call('XPENDING', KEYS[1], group, 'IDLE', idle_ms, '-', '+', most)
  for _, pending in ipairs(left) do
    local id = pending[1]
    local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    if not entry then -- trimmed away: there is nothing left to serve
      redis.call('XACK', KEYS[1], group, id)
    elseif #redis.call('XCLAIM', KEYS[1], group, consumer, idle_ms, id) > 0 then
      taken[#taken + 1] = {id, entry[2][2], pending[4] + 1}
    end
  end
end
-- Before Redis 7.2 a consumer that only waits is not known, or not seen. To read what it holds after the last id
-- that can be makes it seen, and changes nothing.
redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', 1, 'STREAMS', KEYS[1], '18446744073709551615-0')
local others = 0
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], group)) do
  local other = {}
  for i = 1, #flat, 2 do other[flat[i]] = flat[i + 1] end
  if other.name ~= consumer and (other.pending > 0 or other.idle < tonumber(ARGV[6])) then others = 1 end
end
return {held, taken, others}
