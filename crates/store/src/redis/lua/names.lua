-- Idempotency keys (kind 'keys') and request ids (kind 'ids'): which job a name means, and until when.
--
-- An entry is the id of the job, its payload's hash, when it ends, and the state the job ended in where that is not success.
-- A key ends its window after its job, which is not known when it is entered: it gets a little more than a window then, and
-- a new entry only if its job took longer than that. So nothing is written for most jobs when they succeed.
--
-- Entries are kept in generations: hashes from names to entries that end before the same multiple of a span, the power of
-- two below the window; so there are three or four to look into. A generation whose end has passed is looked through once:
-- keys of jobs that live move on, and the rest goes with one UNLINK, which frees it beside the server's work. Nothing is
-- left to EXPIRE, which would stall the server.

-- Ends of generations are counted in the first, ends of keys in bodies and heads in the second.
local UNIT_MS, KEY_UNIT_MS = 65536, 1024
local REQUEST_ID_WINDOW_MS = 600000
local name_end, generation_of, stamp_of, end_of
do
local END_MAX_MS = 4294967295 * KEY_UNIT_MS

-- When a key ends that is entered now, if its job ends soon; lifecycle.rs has the same.
function name_end(window_ms) return min(NOW + window_ms + floor(window_ms / 64), END_MAX_MS) end

local function span_of(window_ms)
  local _, exponent = math.frexp(max(window_ms, UNIT_MS))
  return min(math.ldexp(1, exponent - 1), END_MAX_MS)
end

-- The generation of what ends at `ms`.
local last_window_ms, span = UNIT_MS, UNIT_MS
function generation_of(ms, window_ms)
  if window_ms ~= last_window_ms then last_window_ms, span = window_ms, span_of(window_ms) end
  return (floor(ms / span) + 1) * (span / UNIT_MS)
end

-- A time as it stands in entries, and back.
function stamp_of(ms) return sub(spack('>I8', ms), 3) end
function end_of(entry) return (sunpack('>I8', '\0\0' .. sub(entry, 29, 34))) end
end

local function generation_key(kind, unit)
  local key = K[kind][unit]
  if not key then
    key = K.tag .. ':' .. kind .. ':' .. as_text(unit)
    -- A few at a time are in use.
    if K.generations == 32 then K.keys, K.ids, K.generations = {}, {}, 0 end
    K[kind][unit], K.generations = key, K.generations + 1
  end
  return key
end

local units_of, set_units, know_generation, names_in, write_name, find_names, in_force, move_key, ends_late_enough, close_key
-- What this call has entered: kind -> name -> entry.
local entered = {keys = {}, ids = {}}
do

-- Keys of generations -> names and entries by turns; -> names to take out.
local names_put, names_out, names_changed = {}, {}, false

-- kind -> ends of its generations in order, as this call knows them; read when first needed.
local generations = {}

function units_of(kind)
  local units = generations[kind]
  if not units then
    units = numbers((parts.are_units_read and parts.units[kind] or call('HGET', K.meta, kind)) or '')
    generations[kind] = units
  end
  return units
end

function set_units(kind, units)
  units.changed, generations[kind], names_changed = true, units, true
end

parts.reset_names = function()
  if next(generations) then generations = {} end
  if not names_changed then return end
  entered.keys, entered.ids, names_put, names_out, names_changed = {}, {}, {}, {}, false
end

function know_generation(kind, unit)
  local units = units_of(kind)
  for i = #units, 1, -1 do if units[i] == unit then return end end
  units = {unit, unpack(units)}
  table.sort(units)
  set_units(kind, units)
end

-- Names and entries by turns that flush() writes into a generation, which is known from now on.
function names_in(kind, unit)
  know_generation(kind, unit)
  names_changed = true
  return list_in(names_put, generation_key(kind, unit))
end

function write_name(kind, unit, name, entry)
  if kind == 'keys' then K.keys_room = K.keys_room - 1 end
  local list = names_in(kind, unit)
  local n = #list
  list[n + 1], list[n + 2] = name, entry
  entered[kind][name] = entry
end

-- The entries of names, a list with gaps. What ends last counts.
function find_names(kind, wanted)
  local entries = {}
  if #wanted == 0 then return entries end
  local known = units_of(kind)
  for g = #known, 1, -1 do
    local stored = call('HMGET', generation_key(kind, known[g]), unpack(wanted))
    for i = 1, #wanted do
      if stored[i] and (not entries[i] or end_of(stored[i]) > end_of(entries[i])) then entries[i] = stored[i] end
    end
  end
  return entries
end

-- What a name means now: as this call has entered it, else as found; nil if that is no more in force.
function in_force(kind, name, entry)
  local ours = entered[kind][name]
  if ours or not entry then return ours end
  if end_of(entry) > NOW then return entry end
  local job = kind == 'keys' and job_of(sub(entry, 1, 16))
  return job and job[STATE] < SUCCEEDED and entry or nil
end

-- Enters a job's key anew, in place of whatever is known of it.
function move_key(job, ends, state)
  local name, unit = key_of(body_of(job)), generation_of(ends, policy.idempotency_window_ms)
  for _, known in ipairs(units_of('keys')) do
    if known ~= unit then
      local list = list_in(names_out, generation_key('keys', known))
      list[#list + 1] = name
    end
  end
  job[KEY_END] = floor(ends / KEY_UNIT_MS)
  write_name('keys', unit, name,
    job.id .. hash_of(body_of(job)) .. stamp_of(ends) .. (state == SUCCEEDED and '' or string.char(state)))
end

function ends_late_enough(key_end)
  return key_end == 0 or key_end * KEY_UNIT_MS >= NOW + policy.idempotency_window_ms
end

-- The job has ended: from now on its key lives for the window.
function close_key(job, state)
  local unit = job[KEY_END]
  if unit == 0 or (state == SUCCEEDED and ends_late_enough(unit)) then return end
  if job.aside then
    -- It may have ended long ago, and its key be another's by now.
    local name = key_of(body_of(job))
    local owner = entered.keys[name] or find_names('keys', {name})[1]
    if owner and sub(owner, 1, 16) ~= job.id then return end
  end
  move_key(job, min(max(unit * KEY_UNIT_MS, NOW + policy.idempotency_window_ms), 4294967295 * KEY_UNIT_MS), state)
end

parts.flush_names = function()
  if not names_changed then return end
  for key, args in next, names_out do in_pieces('HDEL', key, args) end
  for key, args in next, names_put do in_pieces('HSET', key, args) end
  for kind, units in next, generations do
    if units.changed then
      call('HSET', K.meta, kind, table.concat(units, ' '))
      parts.are_units_read = false
    end
  end
end

end
