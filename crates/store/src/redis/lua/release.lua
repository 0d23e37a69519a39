-- flags: allow-oom
-- Gives back what a session holds.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2]           the session
-- ARGV[3]           0 = broken (the losses count), 1 = bye
-- ARGV[4]           seed of the jitter
-- ARGV[5]           jobs in this call at most
-- returns           {jobs given back, 1 = there are more}

local function give_back(set, entries, bye, keep_slot, seed)
  local ids = {}
  for i = 1, #entries do ids[i] = sub(entries[i], 1, 16) end
  load(ids)
  for i = 1, #entries do
    local job, fence = jobs[ids[i]], (sunpack('>I8', entries[i], 17))
    if not holds(job, fence) then
      put(set_remove, set, entries[i])
    elseif bye then
      change(job, keep_slot, returned)
    else
      change(job, keep_slot, lost, jitter(seed, fence, job.id))
    end
  end
  step()
end

made.release = function()
  local set, bye, seed, limit = session_set(ARGV[2]), ARGV[3] == '1', tonumber(ARGV[4]), tonumber(ARGV[5])
  local keep_slot, given = not bye and policy.costs == 1, 0
  while given < limit and bytes_read <= BYTES_MAX do
    local n = min(limit - given, LOAD_MAX)
    local entries = call('SRANDMEMBER', set, n)
    table.sort(entries)
    if #entries > 0 then give_back(set, entries, bye, keep_slot, seed) end
    given = given + #entries
    if #entries < n then return {given, 0} end
  end
  return {given, 1}
end
