-- Idempotency keys (kind 'keys') and request ids (kind 'ids'): which job a name means, and until when.
--
-- One map from names to entries, cut into parts by the name's hash so that no hash grows large; the router computes the
-- part. Names that end are listed under the span of time in which they end, in order of their ends while the window
-- stays the same; the sweep works these lists off. An entry that has changed since it was listed is left alone.

local ENTRY = '>c16c16BI8'
local SPAN_MS = {keys = 3600000, ids = 60000}
local REQUEST_ID_WINDOW_MS = 600000

-- By kind: name -> entry as read or as changed, false = none.
local names
-- By kind: what was changed, by part; what ends, by span. Nothing was while there is no table.
local names_changed, names_end

reset_names = function()
  names, names_changed, names_end = {keys = {}, ids = {}}, {}, {}
end

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

local function list_in(tables, kind, key)
  local lists = tables[kind]
  if not lists then
    lists = {}
    tables[kind] = lists
  end
  local list = lists[key]
  if not list then
    list = {}
    lists[key] = list
  end
  return list
end

-- `ended`: the state its job ended in, 0 while it lives; `expires`: 0 = never.
local function write_entry(kind, part, name, id, hash, ended, expires)
  names[kind][name] = {id = id, hash = hash, ended = ended, expires = expires}
  local list = list_in(names_changed, kind, part)
  local n = #list
  list[n + 1], list[n + 2] = name, spack(ENTRY, id, hash, ended, expires)
  if expires ~= 0 then
    list = list_in(names_end, kind, floor(expires / SPAN_MS[kind]))
    list[#list + 1] = spack('>I8I2', expires, part) .. name
  end
end

local function put_entry(kind, part, name, id, hash, ended, expires)
  if not entry_of(kind, part, name) then bump(kind, 1) end
  write_entry(kind, part, name, id, hash, ended, expires)
end

-- The job has ended: from now on its key lives for the window. While a job lives its key is its own.
local function close_key(job, ended)
  if job[FLAGS] < HAS_KEY then return end
  write_entry('keys', job[PART], key_of(job), job.id, job[HASH], ended, NOW + policy.idempotency_window_ms)
end

flush_names = function()
  for kind, parts in pairs(names_changed) do
    for part, args in pairs(parts) do in_pieces('HSET', part_key(kind, part), args) end
  end
  for kind, spans in pairs(names_end) do
    for span, list in pairs(spans) do
      in_pieces('RPUSH', span_key(kind, span), list)
      call('ZADD', spans_key(kind), span, span)
    end
  end
  names_changed, names_end = {}, {}
end
