-- flags: allow-oom
-- Exact numbers of a queue.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- returns           nil for a queue that does not exist, else {time, slots, slots of retries, since when the oldest ready
--                   job is ready or -1, ready, ready retries, scheduled, running, succeeded, dead, cancelled, expired,
--                   unreadable, 1 = paused, the fields of meta}

local function oldest_ready()
  local since = -1
  for lane = 0, 1 do
    local job = next_ready(lane, 1)
    local due = job and (job[DUE] == 0 and created(job) or job[DUE])
    if due and (since < 0 or due < since) then since = due end
  end
  trim_lists()
  return since
end

local function ended_as(state)
  if state == SUCCEEDED then
    return call('LLEN', K.history[state]) - record[STALE + 2] + call('ZCARD', K.awaited[state])
  end
  return call('ZCARD', K.history[state]) + call('ZCARD', K.awaited[state])
end

made.stats = function()
  if record[MADE] == 0 then return false end
  reset_ready()
  local since = oldest_ready()
  flush()
  local retries, ready_retries = slot_count(1), ready_count(1)
  return {
    NOW, slot_count(0) + retries, retries, since, ready_count(0) + ready_retries, ready_retries,
    call('ZCARD', K.scheduled), call('ZCARD', K.leases[0]) + call('ZCARD', K.leases[1]), ended_as(SUCCEEDED),
    ended_as(DEAD), ended_as(CANCELLED), ended_as(EXPIRED), call('HLEN', K.unreadable), record[PAUSED],
    call('HGETALL', K.meta),
  }
end
