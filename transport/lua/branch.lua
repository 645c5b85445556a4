-- Adds a what-if branch to the list in its parent's state, which lives as long as the parent does.
-- KEYS state of the parent   ARGV id of the branch, the most branches in the list (the oldest ones are left out), an id
-- that leaves the list (empty: none)
-- Returns the parent's status, or GONE: nothing is written.
local state = redis.call('HMGET', KEYS[1], 'status', 'branches')
if not state[1] then return 'GONE' end
local kept = {}
for id in string.gmatch(state[2] or '', '%S+') do
  if id ~= ARGV[1] and id ~= ARGV[3] then kept[#kept + 1] = id end
end
kept[#kept + 1] = ARGV[1]
local first = math.max(1, #kept - ARGV[2] + 1)
redis.call('HSET', KEYS[1], 'branches', table.concat(kept, ' ', first))
return state[1]
