-- Takes a field out of a hash: what is written under it afterwards is for the next caller.
-- KEYS residency   ARGV the field
-- Returns its value, or nil where there is none
local value = redis.call('HGET', KEYS[1], ARGV[1])
if value then redis.call('HDEL', KEYS[1], ARGV[1]) end
return value
