-- Deletes consumers of processes that have ended, in every group of the sessions stream.
-- XGROUP DELCONSUMER loses pending entries, so a consumer that has some stays until others have taken them over.
-- KEYS sessions   ARGV for how long a consumer must have been idle, in ms
-- Returns how many were deleted
local swept = 0
local function fields(flat)
  local found = {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local name = fields(group).name
  for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], name)) do
    local consumer = fields(flat)
    if consumer.pending == 0 and consumer.idle > tonumber(ARGV[1]) then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[1], name, consumer.name)
      swept = swept + 1
    end
  end
end
return swept
