-- flags: allow-oom
-- Sets or adopts a cap; an older order is refused. What runs is counted in the same step.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2], ARGV[3]  epoch and generation
-- ARGV[4]           ms until it expires; 0 = never
-- ARGV[5..7]        cap, retry cap, safe; absent to adopt what is stored
-- returns           {1 = applied, slots, cap, retry cap, safe, expires, epoch, generation} (the last six only if there
--                   is a cap)

create()
local FIELDS = {'cap', 'retry_cap', 'safe', 'cap_expires', 'cap_epoch', 'cap_generation'}
local stored = call('HMGET', META, unpack(FIELDS))
local applied = true
if stored[1] then
  local epoch, generation = tonumber(ARGV[2]), tonumber(ARGV[3])
  local e, g = tonumber(stored[5]), tonumber(stored[6])
  applied = epoch > e or (epoch == e and generation >= g)
end
if applied then
  local cap, retry_cap, safe = ARGV[5] or stored[1], ARGV[6] or stored[2], ARGV[7] or stored[3]
  if cap then
    local ttl = tonumber(ARGV[4])
    local expires = ttl == 0 and '0' or string.format('%.0f', NOW + ttl)
    stored = {cap, retry_cap, safe, expires, ARGV[2], ARGV[3]}
    local record = {}
    for i = 1, #FIELDS do
      record[2 * i - 1], record[2 * i] = FIELDS[i], stored[i]
    end
    call('HSET', META, unpack(record))
  end
  wake()
  flush()
end
local answer = {applied and 1 or 0, slot_count(0) + slot_count(1)}
if stored[1] then
  for i = 1, #FIELDS do answer[2 + i] = stored[i] end
end
return answer
