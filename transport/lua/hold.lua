-- Takes or keeps the loader's lease: one process loads a model at a time. A life of 1 ms gives it up.
-- KEYS loader   ARGV who, its life in ms
-- Returns 1 where it is held now
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
