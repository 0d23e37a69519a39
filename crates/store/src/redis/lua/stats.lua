-- flags: allow-oom
-- Exact numbers of a queue.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- returns           nil for a queue that does not exist, else {time, slots, slots of retries, since when the oldest ready
--                   job is ready or -1, the fields of counts, the fields of meta}

if record.made == 0 then return false end
local since = -1
for lane = 0, 1 do
  local job = head(lane, 1)
  if job and (since < 0 or job[DUE] < since) then since = job[DUE] end
end
trim_lists()
local retries = slot_count(1)
return {NOW, slot_count(0) + retries, retries, since, call('HGETALL', COUNTS), call('HGETALL', META)}
