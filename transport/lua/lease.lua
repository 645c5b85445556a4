-- Refreshes a consumer's leases on the sessions stream, and takes over leases that others have left.
-- A lease is a pending entry. Only entries that are still the consumer's own are claimed again: by a plain XCLAIM an owner
-- that was paused would take a lease back from its new owner.
-- KEYS sessions   ARGV group, consumer, idle_ms, the most leases to take over, the idle time that held leases get (0: a
-- refresh; a large one hands them over), within how many ms a running consumer was seen, how many entries this consumer has
-- left to others, their ids, then pairs: the id of a held entry, and 1 where its session is proven to run well, else 0
-- Returns {ids still held, {id, session, deliveries} of each lease taken over, 1 where the group has other consumers}
local group, consumer, idle_ms, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local held, taken, left = {}, {}, {}
local first = 8 + tonumber(ARGV[7])
for i = 8, first - 1 do left[ARGV[i]] = true end
for i = first, #ARGV, 2 do
  local mine = redis.call('XPENDING', KEYS[1], group, ARGV[i], ARGV[i], 1)
  if mine[1] and mine[1][2] == consumer then
    local deliveries = mine[1][4]
    -- The session runs well here, so earlier owners did not end because of it.
    if ARGV[i + 1] == '1' then deliveries = 1 end
    -- A hand-over is not counted as a failed delivery: otherwise the tenth rolling restart would end the session.
    if ARGV[5] ~= '0' then deliveries = math.max(deliveries - 1, 0) end
    redis.call('XCLAIM', KEYS[1], group, consumer, 0, ARGV[i], 'IDLE', ARGV[5], 'RETRYCOUNT', deliveries, 'JUSTID')
    held[#held + 1] = ARGV[i]
  end
end
if most > 0 then
  local silent = redis.call('XPENDING', KEYS[1], group, 'IDLE', idle_ms, '-', '+', most + tonumber(ARGV[7]))
  for _, pending in ipairs(silent) do
    local id = pending[1]
    local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    if not entry then -- it was trimmed, so its session has expired
      redis.call('XACK', KEYS[1], group, id)
    elseif left[id] or #taken == most then -- another consumer may take it
    elseif #redis.call('XCLAIM', KEYS[1], group, consumer, idle_ms, id) > 0 then
      taken[#taken + 1] = {id, entry[2][2], pending[4] + 1}
    end
  end
end
-- Before Redis 7.2 a consumer that only waits is not created, or not seen. Reading its pending entries after the largest
-- possible id makes it seen, and changes nothing.
redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', 1, 'STREAMS', KEYS[1], '18446744073709551615-0')
local others = 0
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], group)) do
  local other = {}
  for i = 1, #flat, 2 do other[flat[i]] = flat[i + 1] end
  if other.name ~= consumer and (other.pending > 0 or other.idle < tonumber(ARGV[6])) then others = 1 end
end
return {held, taken, others}
