-- flags: no-writes
-- Jobs of one state, without payload and result. Ended ones: the newest first.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2], ARGV[3]  state, jobs at most
-- ARGV[4], ARGV[5]  where the page begins, two numbers; 0 and 0 at first
-- returns           {1 = there is more, where it begins (two numbers), then of each job: id, blob, end of its lease or 0}

local state, limit, first, second = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local found = {}
-- Entries looked at in one call: stale ones are many where jobs were cancelled, and others wait for the server.
local looked, LOOKED_MAX = 0, 2000

local function summary(job)
  local blob = job.blob
  local result = #blob - job[RESULT_LEN]
  return sub(blob, 1, HEAD_BYTES + job[KEY_LEN] + job[META_LEN]) .. sub(blob, result - job[ERROR_LEN] + 1, result)
end

local function keep(job, until_ms)
  found[#found + 1] = job.id
  found[#found + 1] = summary(job)
  found[#found + 1] = until_ms
  -- What is listed has no payload; do not keep those that were read for it.
  jobs[job.id] = nil
end

-- Lane by lane (`first`), from an offset (`second`): the members of `read(lane, start, stop)`, those that `take` takes.
local function by_lane(read, length, take)
  while #found < 3 * limit and first <= 1 and looked < LOOKED_MAX do
    local members = read(first, second, second + limit - #found / 3 - 1)
    for i = 1, #members do take(members[i], first) end
    looked = looked + #members
    second = second + #members
    if #members == 0 then first, second = first + 1, 0 end
  end
  return first == 0 and length(0) - second + length(1) > 0 or first == 1 and length(1) > second
end

local function take_ready(entry, lane)
  local job = job_of(sub(entry, 1, 16))
  if job and job[STATE] == READY and job[LANE] == lane and entry == slot(job.id, job[SEQ]) then keep(job, 0) end
end

local function take_running(entry, lane)
  local job = job_of(sub(entry, 1, 16))
  if job then keep(job, tonumber(call('ZSCORE', LEASES[lane], entry))) end
end

local function scheduled()
  local ids = call('ZRANGE', SCHEDULED_SET, first, first + limit - 1)
  for i = 1, #ids do
    local job = job_of(ids[i])
    if job then keep(job, 0) end
  end
  first = first + #ids
  return first < call('ZCARD', SCHEDULED_SET)
end

-- Two sorted sets as one: the kept ones (`first`) and those whose result is awaited (`second`).
local function ended()
  local sets = {HISTORY[state], AWAITED[state]}
  local kept = call('ZREVRANGE', sets[1], first, first + limit - 1, 'WITHSCORES')
  local awaited = call('ZREVRANGE', sets[2], second, second + limit - 1, 'WITHSCORES')
  local k, a = 1, 1
  while #found < 3 * limit and (kept[k] or awaited[a]) do
    local at, awaited_at = tonumber(kept[k + 1] or -1), tonumber(awaited[a + 1] or -1)
    local id
    if at > awaited_at or (at == awaited_at and kept[k] > awaited[a]) then
      id, k = kept[k], k + 2
    else
      id, a = awaited[a], a + 2
    end
    local job = job_of(id)
    if job then keep(job, 0) end
  end
  first, second = first + (k - 1) / 2, second + (a - 1) / 2
  return first < call('ZCARD', sets[1]) or second < call('ZCARD', sets[2])
end

local more
if limit == 0 then
  more = false
elseif state == SCHEDULED then
  more = scheduled()
elseif state == READY then
  more = by_lane(function(lane, start, stop) return call('LRANGE', READY_LIST[lane], start, stop) end,
    function(lane) return call('LLEN', READY_LIST[lane]) end, take_ready)
elseif state == RUNNING then
  more = by_lane(function(lane, start, stop) return call('ZRANGE', LEASES[lane], start, stop) end,
    function(lane) return call('ZCARD', LEASES[lane]) end, take_running)
else
  more = ended()
end
local answer = {more and 1 or 0, first, second}
for i = 1, #found do answer[3 + i] = found[i] end
return answer
