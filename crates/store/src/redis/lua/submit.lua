-- flags:
-- Enters jobs: known key or request id first, then room, then the job.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2..]         of each job: id and payload hash (28 bytes), and if it has to wait or has a deadline due, delay,
--                   absolute and relative deadline in ms (8 bytes each, 0 = none); its body from the flags on; its key,
--                   or else its request id, or nothing
-- returns           if all are entered a byte of each, its state; else a list of what each has become: its state, or one of
--                   {2, id, state or 0, 1 = the job is kept, result or nil} a duplicate
--                   {3, depth, max} full, {4, max} no room for another key, {5, id} the key is another payload's

local PLAIN_BYTES, ENTERED_ONE = 28, string.char(READY)

-- An entry that another job holds under the same name.
local function duplicate(kind, entry, hash)
  local id = sub(entry, 1, 16)
  if sub(entry, 17, 28) ~= hash then return {5, id} end
  local first = job_of(id)
  if first then return {2, id, first[STATE], 1, first[STATE] == SUCCEEDED and result_of(first)} end
  local state = byte(entry, 35) or (kind == 'keys' and SUCCEEDED or 0)
  return {2, id, state, 0, false}
end

local function depth()
  return call('ZCARD', K.scheduled) + ready_count(0) + ready_count(1) + call('ZCARD', K.leases[0]) +
    call('ZCARD', K.leases[1]) + call('ZCARD', K.history[DEAD])
end

local function keys_held()
  local n, units = 0, units_of('keys')
  for i = 1, #units do n = n + call('HLEN', generation_key('keys', units[i])) end
  return n
end

-- Jobs that may still be entered, of any kind and with a key. A queue that holds fewer jobs of any state has room; only
-- else it is counted closely. Where there is much of it, it is counted once for some hundreds of jobs: nothing but a submit
-- takes it. One that this library has not seen (of another version, in another database, while another server was the
-- master) shows in the total.
local COUNTED_FOR = 256
local function rooms(n, keyed_n)
  if K.counted_for ~= policy or K.submitted_total ~= parts.submitted_total then
    K.counted_for, K.submitted_total, K.room, K.keys_room = policy, parts.submitted_total, 0, 0
  end
  if K.room < n then
    local room = policy.max_depth - call('HLEN', K.bodies)
    if room < n then return policy.max_depth - depth(), policy.max_keys - keys_held() end
    K.room = min(room, max(n, COUNTED_FOR))
  end
  if K.keys_room < keyed_n then K.keys_room = min(policy.max_keys - keys_held(), max(keyed_n, COUNTED_FOR)) end
  return K.room, K.keys_room
end

local function take_room(n, keyed_n)
  K.room, K.keys_room = K.room - n, K.keys_room - keyed_n
end

-- Whether a name means something, or has meant it until lately.
local function is_known(kind, name)
  local known = units_of(kind)
  for g = #known, 1, -1 do if call('HEXISTS', generation_key(kind, known[g]), name) == 1 then return true end end
  return false
end

-- One job that waits for nothing and whose name is new: most calls, where there is little to do. The same as below,
-- without the lists that many jobs need. Answers whether it was that.
local function enter_one(entry, rest, name)
  local is_keyed = byte(rest) % 4 >= HAS_KEY
  local room, keys_room = rooms(1, is_keyed and 1 or 0)
  if #entry ~= PLAIN_BYTES or room <= 0 or (is_keyed and keys_room <= 0) then return false end
  local key_ends = name_end(policy.idempotency_window_ms)
  if name ~= '' then
    local kind, window_ms, ends = 'keys', policy.idempotency_window_ms, key_ends
    if not is_keyed then kind, window_ms, ends = 'ids', REQUEST_ID_WINDOW_MS, NOW + REQUEST_ID_WINDOW_MS end
    if is_known(kind, name) then return false end
    local unit = generation_of(ends, window_ms)
    know_generation(kind, unit)
    call('HSET', generation_key(kind, unit), name, entry .. stamp_of(ends))
  end
  local id = sub(entry, 1, 16)
  local body = sub(spack('>I8I4', NOW, is_keyed and floor(key_ends / KEY_UNIT_MS) or 0), 3) .. rest
  call('HSET', K.bodies, id, body)
  call('RPUSH', K.ready[0], id)
  if parts.is_handover then entering[id], has_entered = body, true else wake() end
  take_room(1, is_keyed and 1 or 0)
  submitted_n = 1
  flush()
  return true
end

-- A job that has to wait or has a deadline has a head from the beginning.
local function enter(id, body, numbers)
  local due, delay, deadline, deadline_after = sunpack('>I8I8I8I8', numbers, PLAIN_BYTES + 1)
  local job = known(id, nil, body)
  job[DUE], job[RAN] = max(due, NOW + delay), NOW
  job[DEADLINE] = deadline_after > 0 and NOW + deadline_after or deadline
  job[STATE] = job[DUE] > NOW and SCHEDULED or READY
  index(job)
  note(job)
  return job[STATE]
end

-- Of a kind: its jobs' names in their order, what is known of them, and where the jobs' own go. Nothing without a name.
local function read_names(kind, window_ms, ends, names)
  if #names == 0 then return nil end
  return {
    kind = kind, entries = find_names(kind, names), at = 0, ours = entered[kind],
    unit = generation_of(ends, window_ms), stamp = stamp_of(ends),
  }
end

local function names_of(n, key_ends)
  local keys, ids = {}, {}
  for i = 1, n do
    local rest, name = ARGV[3 * i], ARGV[3 * i + 1]
    if byte(rest) % 4 >= HAS_KEY then keys[#keys + 1] = name elseif name ~= '' then ids[#ids + 1] = name end
  end
  return read_names('keys', policy.idempotency_window_ms, key_ends, keys),
    read_names('ids', REQUEST_ID_WINDOW_MS, NOW + REQUEST_ID_WINDOW_MS, ids), #keys
end

-- The entry that owns a name, if that is in force, and whether the name is new.
local function owner_of(names, name)
  local at = names.at + 1
  names.at = at
  local entry = names.entries[at]
  if not entry and not names.ours[name] then return nil, true end
  return in_force(names.kind, name, entry), false
end

local function remember(names, name, entry)
  local list = names.list
  if not list then
    list = names_in(names.kind, names.unit)
    names.list = list
  end
  -- Others put something into it as well.
  local n, stamped = #list, entry .. names.stamp
  list[n + 1], list[n + 2], names.ours[name] = name, stamped, stamped
end

made.submit = function()
  create()
  local n = (#ARGV - 1) / 3
  if n == 1 and enter_one(ARGV[2], ARGV[3], ARGV[4]) then return ENTERED_ONE end
  local key_ends = name_end(policy.idempotency_window_ms)
  local keys, ids, keyed_n = names_of(n, key_ends)
  local room, keys_room = rooms(n, keyed_n)
  local keyed_start = sub(spack('>I8I4', NOW, floor(key_ends / KEY_UNIT_MS)), 3)
  local plain_start = sub(keyed_start, 1, KEY_END_AT - 1) .. '\0\0\0\0'
  local answers, entered_n, new_keys_n, ready = {}, 0, 0, pushed[0]
  for i = 1, n do
    local entry, rest, name = ARGV[3 * i - 1], ARGV[3 * i], ARGV[3 * i + 1]
    local id, is_plain, is_keyed = sub(entry, 1, 16), #entry == PLAIN_BYTES, byte(rest) % 4 >= HAS_KEY
    if not is_plain then entry = sub(entry, 1, PLAIN_BYTES) end
    local names, owner, is_new = is_keyed and keys or ids, nil, true
    if name ~= '' then owner, is_new = owner_of(names, name) end
    if owner then
      answers[i] = duplicate(names.kind, owner, sub(entry, 17))
    elseif room <= 0 then
      answers[i] = {3, depth() + entered_n, policy.max_depth}
    elseif is_keyed and is_new and keys_room <= 0 then
      answers[i] = {4, policy.max_keys}
    else
      if name ~= '' then remember(names, name, entry) end
      if is_keyed and is_new then keys_room, new_keys_n = keys_room - 1, new_keys_n + 1 end
      local body, m = (is_keyed and keyed_start or plain_start) .. rest, 2 * entered_n
      bodies_put[m + 1], bodies_put[m + 2], entering[id], has_entered = id, body, body, true
      if is_plain then
        ready[#ready + 1], answers[i] = id, READY
      else
        answers[i] = enter(id, body, ARGV[3 * i - 1])
      end
      room, entered_n = room - 1, entered_n + 1
    end
  end
  take_room(entered_n, new_keys_n)
  if #ready > 0 and not parts.is_handover then wake() end
  submitted_n = entered_n
  flush()
  return entered_n == n and string.char(unpack(answers)) or answers
end
