-- Says that a model is in use, unless somebody is taking it out of memory just now.
-- KEYS residency   ARGV the field that marks its eviction, the use's field, how long the use lasts in ms, the key's life in s,
-- the field that counts its evictions
-- Returns 1 and the number of its evictions so far, or 0: ask again soon
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local evicting = redis.call('HGET', KEYS[1], ARGV[1])
if (tonumber(evicting) or 0) > now then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[2], now + ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1 + (tonumber(redis.call('HGET', KEYS[1], ARGV[5])) or 0)
