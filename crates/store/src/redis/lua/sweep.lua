-- flags: allow-oom
-- Everything that happens by time, bounded per call.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2]           ms; leases and ghosts that ended by then are taken back; 0 = none
-- ARGV[3]           ms; when > 0, first a hold of that length which every sweep obeys
-- ARGV[4], ARGV[5]  items of each kind at most, seed of the jitter
-- returns           {promoted, reclaimed, ghosts, expired, trimmed, names forgotten, 1 = a limit was reached}

-- Names of one generation looked at in one call.
local NAMES_MAX = 250
-- Items of each kind in one call, whatever the caller would allow: a changed job costs several commands, and a call is
-- to take a few milliseconds at most.
local LIMIT_MAX = 128
local limit, more

local function noted(n)
  more = more or n >= limit
  return n
end

-- Applies `apply` to the waiting jobs of a sorted set whose time has come.
local function due(key, apply)
  local ids = call('ZRANGEBYSCORE', key, '-inf', as_text(NOW), 'LIMIT', 0, limit)
  for start = 1, #ids, LOAD_MAX do
    local piece = {unpack(ids, start, min(start + LOAD_MAX - 1, #ids))}
    load(piece)
    for i = 1, #piece do
      local job = jobs[piece[i]]
      if job and job[STATE] < RUNNING then change(job, false, apply) else put(sorted_remove, key, piece[i]) end
    end
    step()
  end
  return noted(#ids)
end

-- Slots whose time was over by `ended`, the oldest first: {until, id, fence, whether it is a ghost's}.
local function slots_over(ended)
  local over = {}
  for lane = 0, record[USED] do
    for ghost, key in pairs({[0] = K.leases[lane], [1] = K.ghosts[lane]}) do
      local entries = call('ZRANGEBYSCORE', key, '-inf', as_text(ended), 'WITHSCORES', 'LIMIT', 0, limit)
      for i = 1, #entries, 2 do
        over[#over + 1] = {at = tonumber(entries[i + 1]), entry = entries[i], ghost = ghost == 1, key = key}
      end
    end
  end
  table.sort(over, function(a, b) return a.at < b.at or (a.at == b.at and a.entry < b.entry) end)
  return over
end

local function take_back(ended, seed)
  local over, reclaimed, ghosts = slots_over(ended), 0, 0
  local n = noted(min(#over, limit))
  for i = 1, n do
    local id, fence = sunpack('>c16I8', over[i].entry)
    if over[i].ghost then
      put(sorted_remove, over[i].key, over[i].entry)
      wake_for_slot()
      ghosts = ghosts + 1
    else
      local job = job_of(id)
      if holds(job, fence) then
        change(job, false, lost, jitter(seed, fence, id))
      else
        -- A job that was set aside may leave its lease behind.
        put(sorted_remove, over[i].key, over[i].entry)
        wake_for_slot()
      end
      reclaimed = reclaimed + 1
    end
    if i % LOAD_MAX == 0 then step() end
  end
  step()
  return reclaimed, ghosts
end

-- Awaited jobs whose time is over, or beyond the newest, join their kind.
local RESULT_KEPT_MS, RESULTS_KEPT_MAX = 60000, 10000
local function release_awaited()
  local waiting, held = {}, 0
  for state = SUCCEEDED, EXPIRED do
    held = held + call('ZCARD', K.awaited[state])
    local entries = call('ZRANGE', K.awaited[state], 0, limit - 1, 'WITHSCORES')
    for i = 1, #entries, 2 do
      waiting[#waiting + 1] = {at = tonumber(entries[i + 1]), id = entries[i], state = state}
    end
  end
  table.sort(waiting, function(a, b) return a.at < b.at or (a.at == b.at and a.id < b.id) end)
  local n, joined = 0, {}
  for _, job in ipairs(waiting) do
    if n == limit or (job.at + RESULT_KEPT_MS > NOW and held - n <= RESULTS_KEPT_MAX) then break end
    put(sorted_remove, K.awaited[job.state], job.id)
    if job.state == SUCCEEDED then
      joined[#joined + 1] = job.id
    else
      put_scored(K.history[job.state], as_text(job.at), job.id)
    end
    n = n + 1
  end
  step()
  in_pieces('RPUSH', K.history[SUCCEEDED], joined)
  noted(n)
end

local function trim_history()
  local trimmed = 0
  for state = SUCCEEDED, EXPIRED do
    if state ~= DEAD then
      local key = K.history[state]
      local size = state == SUCCEEDED and call('LLEN', key) - record[STALE + 2] or call('ZCARD', key)
      trimmed = trimmed + noted(trim(state, limit, size))
    end
  end
  return trimmed
end

-- The server process: what HSCAN says of where it stands means something else to another one.
local run_id

-- Looks through a part of the oldest generation if its end has passed: keys of jobs that live move on, and at the end the
-- rest is dropped. Answers how many names were forgotten.
local function forget(kind)
  local unit = units_of(kind)[1]
  if not unit or unit * UNIT_MS > NOW then return 0 end
  local key, cursor_field = generation_key(kind, unit), 'scanned:' .. kind
  if kind == 'keys' then
    if not run_id then
      local info = redis.pcall('INFO', 'server')
      run_id = type(info) == 'string' and info:match('run_id:(%x+)') or ''
    end
    local place = run_id .. ' ' .. as_text(unit) .. ' '
    local stored = call('HGET', K.meta, cursor_field) or ''
    local cursor = sub(stored, 1, #place) == place and sub(stored, #place + 1) or '0'
    local page = call('HSCAN', key, cursor, 'COUNT', NAMES_MAX)
    local names, ids = page[2], {}
    for i = 1, #names, 2 do ids[(i + 1) / 2] = sub(names[i + 1], 1, 16) end
    for i = 1, #ids, LOAD_MAX do load({unpack(ids, i, min(i + LOAD_MAX - 1, #ids))}) end
    local window_ms = policy.idempotency_window_ms
    local later = generation_of(name_end(window_ms), window_ms)
    for i = 1, #ids do
      local job = jobs[ids[i]]
      if job and job[STATE] < SUCCEEDED then write_name(kind, later, names[2 * i - 1], names[2 * i]) end
    end
    step()
    if page[1] ~= '0' then
      call('HSET', K.meta, cursor_field, place .. page[1])
      more = true
      return 0
    end
    call('HDEL', K.meta, cursor_field)
  end
  local forgotten = call('HLEN', key)
  call('UNLINK', key)
  set_units(kind, {unpack(units_of(kind), 2)})
  local next_unit = units_of(kind)[1]
  more = more or (next_unit ~= nil and next_unit * UNIT_MS <= NOW)
  step()
  return forgotten
end

-- Retries and ghosts are not asked for where there are none. In an empty list nothing is stale.
local function note_unused()
  for lane = 0, 1 do
    if record[STALE + lane] > 0 and call('LLEN', K.ready[lane]) == 0 then set(STALE + lane, 0) end
  end
  if record[USED] == 0 then return end
  local n = call('LLEN', K.ready[1])
  for lane = 0, 1 do n = n + call('ZCARD', K.ghosts[lane]) end
  if n + call('ZCARD', K.leases[1]) == 0 then set(USED, 0) end
end

made.sweep = function()
  if record[MADE] == 0 then return {0, 0, 0, 0, 0, 0, 0} end
  limit, more = min(tonumber(ARGV[4]), LIMIT_MAX), false
  local ended, hold, seed = min(tonumber(ARGV[2]), NOW), tonumber(ARGV[3]), tonumber(ARGV[5])
  if hold > 0 then set(HOLD_UNTIL, max(record[HOLD_UNTIL], NOW + hold)) end
  local overdue = due(K.deadlines, expired)
  local promoted = due(K.scheduled, make_ready)
  local reclaimed, ghosts = 0, 0
  if ended > 0 and NOW >= record[HOLD_UNTIL] then reclaimed, ghosts = take_back(ended, seed) end
  release_awaited()
  local trimmed = trim_history()
  local forgotten = forget('keys') + forget('ids')
  note_unused()
  flush()
  return {promoted, reclaimed, ghosts, overdue, trimmed, forgotten, more and 1 or 0}
end
