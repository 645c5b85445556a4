-- Marks a model for eviction, unless it is in use: from then on nobody begins to use it until the mark is gone.
-- KEYS residency   ARGV the mark's field, what every use of the model begins with, how long the mark lasts in ms, the key's
-- life in s, the field that counts its evictions
-- Returns 1, or 0 where it is in use
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local field, value = all[i], all[i + 1]
  if string.sub(field, 1, 4) == 'use\n' then
    if (tonumber(value) or 0) <= now then -- its process died
      redis.call('HDEL', KEYS[1], field)
    elseif string.sub(field, 1, #ARGV[2]) == ARGV[2] then
      return 0
    end
  end
end
redis.call('HSET', KEYS[1], ARGV[1], now + ARGV[3])
redis.call('HINCRBY', KEYS[1], ARGV[5], 1)
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
