-- Idempotency keys (kind 'keys') and request ids (kind 'ids'): which job a name means, and until when.
--
-- One map from names to entries, cut into parts by the name's hash so that no hash grows large; the router computes the
-- part. Names that end are listed under the span of time in which they end, in order of their ends while the window
-- stays the same; the sweep works these lists off. An entry that has changed since it was listed is left alone.

local ENTRY = '>c16c16BI8'
local SPAN_MS = {keys = 3600000, ids = 60000}
local REQUEST_ID_WINDOW_MS = 600000

-- By kind: name -> entry as read or as changed, false = none.
local names = {keys = {}, ids = {}}
-- By kind: what was changed, by part; what ends, by span.
local names_changed, names_end = {keys = {}, ids = {}}, {keys = {}, ids = {}}

local function part_key(kind, part) return TAG .. ':' .. kind .. ':' .. part end

local function span_key(kind, span) return TAG .. ':' .. kind .. ':ends:' .. span end

local function spans_key(kind) return TAG .. ':' .. kind .. ':spans' end

-- The entry as stored, also one that has expired; nil if there is none.
local function entry_of(kind, part, name)
  local entry = names[kind][name]
  if entry == nil then
    local raw = call('HGET', part_key(kind, part), name)
    entry = false
    if raw then
      local id, hash, ended, expires = sunpack(ENTRY, raw)
      entry = {id = id, hash = hash, ended = ended, expires = expires}
    end
    names[kind][name] = entry
  end
  return entry or nil
end

local function in_force(entry)
  return entry and (entry.expires == 0 or entry.expires > NOW)
end

-- Puts into a table of lists.
local function add(lists, key, ...)
  local list = lists[key]
  if not list then
    list = {}
    lists[key] = list
  end
  for _, value in ipairs({...}) do list[#list + 1] = value end
end

-- `ended`: the state its job ended in, 0 while it lives; `expires`: 0 = never.
local function put_entry(kind, part, name, id, hash, ended, expires)
  if not entry_of(kind, part, name) then bump(kind, 1) end
  names[kind][name] = {id = id, hash = hash, ended = ended, expires = expires}
  add(names_changed[kind], part, name, spack(ENTRY, id, hash, ended, expires))
  if expires ~= 0 then
    add(names_end[kind], floor(expires / SPAN_MS[kind]), spack('>I8I2', expires, part) .. name)
  end
end

-- The job has ended: from now on its key lives for the window. Nothing happens if the key is another job's by now.
local function close_key(job, ended)
  if floor(job[FLAGS] / HAS_KEY) % 2 == 0 then return end
  local part, name = job[PART], key_of(job)
  local entry = entry_of('keys', part, name)
  if entry and entry.id == job.id then
    put_entry('keys', part, name, job.id, entry.hash, ended, NOW + policy.idempotency_window_ms)
  end
end

flush_names = function()
  for kind, parts in pairs(names_changed) do
    for part, args in pairs(parts) do in_pieces('HSET', part_key(kind, part), args) end
    for span, list in pairs(names_end[kind]) do
      in_pieces('RPUSH', span_key(kind, span), list)
      call('ZADD', spans_key(kind), span, span)
    end
  end
  names_changed, names_end = {keys = {}, ids = {}}, {keys = {}, ids = {}}
end
