-- Begins or renews a use of a model, unless it is being evicted.
-- KEYS residency   ARGV the field of the model's eviction, the use's field, the use's life in ms, the key's life in s, the
-- field that counts the model's evictions
-- Returns 1 plus the number of the model's evictions so far, or 0 while it is being evicted
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local evicting = redis.call('HGET', KEYS[1], ARGV[1])
if (tonumber(evicting) or 0) > now then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[2], now + ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1 + (tonumber(redis.call('HGET', KEYS[1], ARGV[5])) or 0)
