-- Takes, renews or gives up the loader's lease: one process loads a model at a time, and of several that ask the one with
-- the smallest model first. A process that asks for the first time waits a moment for others that ask at the same time.
-- KEYS loader   ARGV the process, its model's size in bytes, the lease's life in ms (0: gives it up), that moment in ms, and
-- for how long after asking a process counts as one that asks, in ms
-- Returns 1 where the process has the lease now
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, size, life, moment, wants = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local holder, held_to = unpack(redis.call('HMGET', KEYS[1], 'holder', 'held_to'))
if holder and (tonumber(held_to) or 0) <= now then
  holder = false
end
if life == 0 then
  if holder == me then
    redis.call('HDEL', KEYS[1], 'holder', 'held_to')
  end
  return 0
end
if holder == me then
  redis.call('HSET', KEYS[1], 'held_to', now + life)
  redis.call('EXPIRE', KEYS[1], math.ceil(life / 1000))
  return 1
end
-- want <process> -> size, since when, until when
local mine, first, smallest = 'want ' .. me, now, true
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 5) == 'want ' then
    local other_size, since, to = string.match(fields[i + 1], '^(%d+) (%d+) (%d+)$')
    if not to or tonumber(to) <= now then
      redis.call('HDEL', KEYS[1], fields[i])
    elseif fields[i] == mine then
      first = tonumber(since)
    else
      other_size = tonumber(other_size)
      smallest = smallest and (size < other_size or (size == other_size and mine < fields[i]))
    end
  end
end
if holder or not smallest or now - first < tonumber(moment) then
  redis.call('HSET', KEYS[1], mine, string.format('%.0f %.0f %.0f', size, first, now + wants))
  redis.call('EXPIRE', KEYS[1], math.ceil(math.max(life, wants) / 1000))
  return 0
end
redis.call('HDEL', KEYS[1], mine)
redis.call('HSET', KEYS[1], 'holder', me, 'held_to', now + life)
redis.call('EXPIRE', KEYS[1], math.ceil(life / 1000))
return 1
