-- Deletes all keys of a session that has ended. A process that still has a lease on it finds it gone, as if it had expired.
-- KEYS all keys of the session, its state first   ARGV (none)
-- Returns the session's status before, or GONE. An open session is not deleted.
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return 'GONE' end
if status ~= 'open' then redis.call('DEL', unpack(KEYS)) end
return status
