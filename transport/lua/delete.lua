-- Forgets a session that has ended, whole. Whoever still holds a lease on it finds it gone, as if it had expired.
-- KEYS all of the session's, its state first   ARGV (none)
-- Returns the session's status before, or GONE; one that is open stays.
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return 'GONE' end
if status ~= 'open' then redis.call('DEL', unpack(KEYS)) end
return status
