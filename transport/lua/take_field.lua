-- Reads and deletes a field, so that a value that is written afterwards stays for the next call.
-- KEYS residency   ARGV the field
-- Returns its value, or nil where there is none
local value = redis.call('HGET', KEYS[1], ARGV[1])
if value then redis.call('HDEL', KEYS[1], ARGV[1]) end
return value
