-- flags: allow-oom
-- Everything that happens by time, bounded per call.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2]           1 = leases may be taken back by time
-- ARGV[3]           ms; when > 0, first a hold of that length which every sweep obeys
-- ARGV[4], ARGV[5]  items of each kind at most, seed of the jitter
-- returns           {promoted, reclaimed, ghosts, expired, trimmed, names forgotten, 1 = a limit was reached}

local may_reclaim, hold = ARGV[2] == '1', tonumber(ARGV[3])
local limit, seed = tonumber(ARGV[4]), tonumber(ARGV[5])
local more = false

local function noted(n)
  more = more or n >= limit
  return n
end

-- Applies `apply` to the waiting jobs of a sorted set whose time has come.
local function due(key, apply)
  local ids = call('ZRANGEBYSCORE', key, '-inf', NOW, 'LIMIT', 0, limit)
  for start = 1, #ids, LOAD_MAX do
    local piece = {unpack(ids, start, min(start + LOAD_MAX - 1, #ids))}
    load(piece)
    for i = 1, #piece do
      local job = jobs[piece[i]]
      if job and job[STATE] < RUNNING then change(job, false, apply) else put(key, piece[i], false) end
    end
    flush()
    if bytes_read > BYTES_MAX then
      more = true
      return min(start + LOAD_MAX - 1, #ids)
    end
  end
  return noted(#ids)
end

-- Slots whose time is over, the oldest first: {until, id, fence, whether it is a ghost's}.
local function slots_over()
  local over = {}
  for lane = 0, 1 do
    for ghost, key in pairs({[0] = LEASES[lane], [1] = GHOSTS[lane]}) do
      local entries = call('ZRANGEBYSCORE', key, '-inf', NOW, 'WITHSCORES', 'LIMIT', 0, limit)
      for i = 1, #entries, 2 do
        over[#over + 1] = {at = tonumber(entries[i + 1]), entry = entries[i], ghost = ghost == 1, key = key}
      end
    end
  end
  table.sort(over, function(a, b) return a.at < b.at or (a.at == b.at and a.entry < b.entry) end)
  return over
end

local function take_back()
  local over, reclaimed, ghosts = slots_over(), 0, 0
  local n = noted(min(#over, limit))
  for i = 1, n do
    local id, fence = sunpack('>c16I8', over[i].entry)
    if over[i].ghost then
      put(over[i].key, over[i].entry, false)
      wake()
      ghosts = ghosts + 1
    else
      change(job_of(id), false, lost, jitter(seed, fence, id))
      reclaimed = reclaimed + 1
    end
    if i % LOAD_MAX == 0 then flush() end
    if bytes_read > BYTES_MAX then
      more = true
      break
    end
  end
  flush()
  return reclaimed, ghosts
end

-- Awaited jobs whose time is over, or beyond the newest, join their kind.
local RESULT_KEPT_MS, RESULTS_KEPT_MAX = 60000, 10000
local function release_awaited()
  local waiting, total = {}, 0
  for state = SUCCEEDED, EXPIRED do
    total = total + call('ZCARD', AWAITED[state])
    local entries = call('ZRANGE', AWAITED[state], 0, limit - 1, 'WITHSCORES')
    for i = 1, #entries, 2 do
      waiting[#waiting + 1] = {at = tonumber(entries[i + 1]), id = entries[i], state = state}
    end
  end
  table.sort(waiting, function(a, b) return a.at < b.at or (a.at == b.at and a.id < b.id) end)
  local n = 0
  for _, job in ipairs(waiting) do
    if n == limit or (job.at + RESULT_KEPT_MS > NOW and total - n <= RESULTS_KEPT_MAX) then break end
    put(AWAITED[job.state], job.id, false)
    put(HISTORY[job.state], job.id, string.format('%.0f', job.at))
    n = n + 1
  end
  flush()
  noted(n)
end

local function trim_history()
  kept, ahead = {}, min(limit, LOAD_MAX)
  local trimmed = 0
  for state = SUCCEEDED, EXPIRED do
    if state ~= DEAD then trimmed = trimmed + noted(trim(state, limit)) end
  end
  flush()
  return trimmed
end

-- Works off one list of names that end in the same span; answers how many names it looked at.
local function forget_span(kind, span, room)
  local list = call('LRANGE', span_key(kind, span), 0, room - 1)
  local seen, forgotten = 0, 0
  for i = 1, #list do
    local expires, part = sunpack('>I8I2', list[i])
    if expires > NOW then break end
    seen = i
    local name = sub(list[i], 11)
    local entry = entry_of(kind, part, name)
    if entry and entry.expires == expires then
      call('HDEL', part_key(kind, part), name)
      names[kind][name] = false
      bump(kind, -1)
      forgotten = forgotten + 1
    end
  end
  if seen > 0 then call('LTRIM', span_key(kind, span), seen, -1) end
  if seen == #list and #list < room then call('ZREM', spans_key(kind), span) end
  return seen, forgotten
end

local function forget(kind)
  local spans = call('ZRANGEBYSCORE', spans_key(kind), '-inf', floor(NOW / SPAN_MS[kind]), 'LIMIT', 0, 4)
  local seen, forgotten = 0, 0
  for i = 1, #spans do
    if seen >= limit then break end
    local s, f = forget_span(kind, spans[i], limit - seen)
    seen, forgotten = seen + s, forgotten + f
  end
  flush()
  noted(seen)
  return forgotten
end

if record.made == 0 then return {0, 0, 0, 0, 0, 0, 0} end
if hold > 0 then set('hold_until', max(record.hold_until, NOW + hold)) end
ahead = min(limit, LOAD_MAX)
local overdue = due(DEADLINES, expired)
local promoted = due(SCHEDULED_SET, make_ready)
local reclaimed, ghosts = 0, 0
if may_reclaim and NOW >= record.hold_until then reclaimed, ghosts = take_back() end
release_awaited()
local trimmed = trim_history()
local forgotten = forget('keys') + forget('ids')
flush()
return {promoted, reclaimed, ghosts, overdue, trimmed, forgotten, more and 1 or 0}
