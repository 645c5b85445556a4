-- Begins or renews the eviction of a model that is not in use: no use of it begins until the mark is deleted or expires.
-- KEYS residency   ARGV the mark's field, the prefix of the model's uses, the mark's life in ms, the key's life in s, the
-- field that counts the model's evictions
-- Returns 1, or 0 where the model is in use
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
