-- flags: no-writes
-- Jobs of one state, without payload and result. Ended ones: the newest first.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2], ARGV[3]  state, jobs at most
-- ARGV[4], ARGV[5]  where the page begins, two numbers; 0 and 0 at first
-- returns           {1 = there is more, where it begins (two numbers), then of each job: id, head or nil, body, end of its
--                   lease or 0; of those that cannot be read, whatever their state, head and body are empty}

local limit, first, second, found, broken
-- Entries looked at in one call: stale ones are many where jobs were cancelled, and others wait for the server.
local looked, LOOKED_MAX, FIELDS = 0, 2000, 4

-- Head and body without payload and result; who lost it stands where a success has its result.
local function keep(job, until_ms)
  if job.aside then return end
  local body, n = body_of(job), #found
  if job.broken then
    broken[#broken + 1] = job.id
    return
  end
  local head_end = job[STATE] == SUCCEEDED and HEAD_BYTES + job[ERROR_LEN] or -1
  local meta_len = (sunpack('>I4', body, KEY_AT - 4))
  found[n + 1], found[n + 2] = job.id, job.head and sub(job.head, 1, head_end) or ''
  found[n + 3], found[n + 4] = sub(body, 1, KEY_AT - 1 + byte(body, KEY_AT - 5) + meta_len), until_ms
  job.body = nil
end

-- Jobs that this page still takes; a page of large ones ends early.
local function room() return bytes_read > BYTES_MAX and 0 or limit - #found / FIELDS end

-- Lane by lane (`first`), from an offset (`second`): the members of `read(lane, start, stop)`, those that `take` takes.
local function by_lane(read, length, take)
  while room() > 0 and first <= 1 and looked < LOOKED_MAX do
    local members = read(first, second, second + min(room(), LOAD_MAX) - 1)
    local ids = {}
    for i = 1, #members do ids[i] = sub(members[i], 1, 16) end
    if #ids > 0 then load(ids) end
    for i = 1, #members do take(members[i], first) end
    looked = looked + #members
    second = second + #members
    if #members == 0 then first, second = first + 1, 0 end
  end
  return first == 0 and length(0) - second + length(1) > 0 or first == 1 and length(1) > second
end

local function take_ready_entry(entry, lane)
  local job = is_ready(entry, lane)
  if job then keep(job, 0) end
end

local function take_running(entry, lane)
  local job = job_of(sub(entry, 1, 16))
  if holds(job, (sunpack('>I8', entry, 17))) then keep(job, tonumber(call('ZSCORE', K.leases[lane], entry))) end
end

local function scheduled()
  while room() > 0 do
    local ids = call('ZRANGE', K.scheduled, first, first + min(room(), LOAD_MAX) - 1)
    if #ids == 0 then break end
    load(ids)
    for i = 1, #ids do
      if jobs[ids[i]] then keep(jobs[ids[i]], 0) end
    end
    first = first + #ids
  end
  return first < call('ZCARD', K.scheduled)
end

-- The kept jobs of a state, the newest first, from an offset on: ids and times by turns.
local function kept(state)
  if state ~= SUCCEEDED then
    return call('ZREVRANGE', K.history[state], first, first + limit - 1, 'WITHSCORES'), call('ZCARD', K.history[state])
  end
  local length, ids = call('LLEN', K.history[state]), {}
  local entries = first < length and call('LRANGE', K.history[state], max(length - first - limit, 0), length - first - 1) or {}
  if #entries > 0 then load(entries) end
  for i = #entries, 1, -1 do
    local job = jobs[entries[i]]
    ids[#ids + 1], ids[#ids + 2] = entries[i], job and job[FINISHED] or math.huge
  end
  return ids, length
end

-- Two lists as one: the kept ones (`first`) and those whose result is awaited (`second`).
local function ended(state)
  local ids, length = kept(state)
  local awaited = call('ZREVRANGE', K.awaited[state], second, second + limit - 1, 'WITHSCORES')
  local k, a = 1, 1
  while room() > 0 and (ids[k] or awaited[a]) do
    local at, awaited_at = tonumber(ids[k + 1] or -1), tonumber(awaited[a + 1] or -1)
    local id
    if at > awaited_at or (at == awaited_at and ids[k] > awaited[a]) then
      id, k = ids[k], k + 2
    else
      id, a = awaited[a], a + 2
    end
    local job = job_of(id)
    if job then keep(job, 0) end
  end
  first, second = first + (k - 1) / 2, second + (a - 1) / 2
  return first < length or second < call('ZCARD', K.awaited[state])
end

local function read_page(state)
  if limit == 0 then return false end
  if state == SCHEDULED then return scheduled() end
  if state == READY then
    return by_lane(function(lane, start, stop) return call('LRANGE', K.ready[lane], start, stop) end,
      function(lane) return call('LLEN', K.ready[lane]) end, take_ready_entry)
  end
  if state == RUNNING then
    return by_lane(function(lane, start, stop) return call('ZRANGE', K.leases[lane], start, stop) end,
      function(lane) return call('ZCARD', K.leases[lane]) end, take_running)
  end
  return ended(state)
end

made.list = function()
  looked, found, broken = 0, {}, {}
  limit, first, second = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
  local more = read_page(tonumber(ARGV[2]))
  for _, kept in ipairs(parts.aside) do broken[#broken + 1] = kept.id end
  for _, id in ipairs(broken) do
    local n = #found
    found[n + 1], found[n + 2], found[n + 3], found[n + 4] = id, '', '', 0
  end
  local answer = {more and 1 or 0, first, second}
  for i = 1, #found do answer[3 + i] = found[i] end
  return answer
end
