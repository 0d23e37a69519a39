-- What every operation begins and ends with: the queue's record, and what is to be written.
--
-- KEYS[1]  what every key of the queue begins with; keys.rs lists the suffixes
-- ARGV[1]  the time in ms, or empty for the server's own
--
-- All of this is one library: its functions are made once, at the first call, and begin() resets what belongs to a call.
-- An operation reads, fills lists of what is to be written, and ends with flush(), which writes them with few commands.
-- So one that fails half-way has written nothing of what it was about to. What is done for one job without lists is
-- written when everything has been read and checked.
--
-- What costs time here is the number of commands, and the number of texts that pass between the server and Lua. So
-- commands take hundreds of jobs at once, texts that are equal are made once a call, and texts that are read again and
-- again (a policy) are taken apart once and remembered by what they say.

local call, byte, sub = redis.call, string.byte, string.sub
local floor, min, max = math.floor, math.min, math.max
local spack, sunpack, format = struct.pack, struct.unpack, string.format

local KEYS, ARGV, NOW

-- Names of the queue's keys; by lane: 0 = first attempts, 1 = retries.
local K, name_keys
do
local keys_of, queues_named, QUEUES_NAMED_MAX = {}, 0, 10000
function name_keys(tag)
  local k = keys_of[tag]
  if not k then
    if queues_named == QUEUES_NAMED_MAX then keys_of, queues_named = {}, 0 end
    queues_named = queues_named + 1
    k = {tag = tag, ready = {}, leases = {}, ghosts = {}, history = {}, awaited = {}}
    k.keys, k.ids, k.generations = {}, {}, 0
    -- What submit.lua has counted, and the total as it has left it.
    k.room, k.keys_room, k.submitted_total = 0, 0, -1
    for lane = 0, 1 do
      k.ready[lane], k.leases[lane], k.ghosts[lane] =
        tag .. ':ready:' .. lane, tag .. ':leases:' .. lane, tag .. ':ghosts:' .. lane
    end
    for state = 4, 7 do k.history[state], k.awaited[state] = tag .. ':ended:' .. state, tag .. ':awaited:' .. state end
    k.meta, k.heads, k.bodies = tag .. ':meta', tag .. ':heads', tag .. ':bodies'
    k.scheduled, k.deadlines, k.unreadable = tag .. ':scheduled', tag .. ':deadlines', tag .. ':unreadable'
    keys_of[tag] = k
  end
  K = k
end
end
local function session_set(session) return K.tag .. ':session:' .. session end
local function blamed_set(incarnation) return K.tag .. ':blamed:' .. incarnation end

local SCHEDULED, READY, RUNNING, SUCCEEDED, DEAD, CANCELLED, EXPIRED = 1, 2, 3, 4, 5, 6, 7
local NOBODY = string.rep('\0', 16)
-- Jobs read at once, and bytes of jobs after which an operation comes to its end.
local LOAD_MAX, BYTES_MAX = 64, 1048576

-- As an argument of commands: a number is written as text each time it is one, and slowly.
local function as_text(n) return format('%.0f', n) end

local function read_time()
  NOW = tonumber(ARGV[1])
  if not NOW then
    local time = call('TIME')
    NOW = time[1] * 1000 + floor(time[2] / 1000)
  end
end

local numbers, policy_from
do
-- Numbers separated by spaces, taken apart once for each text.
local lists_of, lists_known, LISTS_KNOWN_MAX = {}, 0, 1000
function numbers(text)
  local list = lists_of[text]
  if not list then
    if lists_known == LISTS_KNOWN_MAX then lists_of, lists_known = {}, 0 end
    lists_known = lists_known + 1
    list = {}
    for number in text:gmatch('%S+') do list[#list + 1] = tonumber(number) end
    lists_of[text] = list
  end
  return list
end

local policies_of, policies_known = {}, 0
function policy_from(text)
  local policy = policies_of[text]
  if not policy then
    if policies_known == LISTS_KNOWN_MAX then policies_of, policies_known = {}, 0 end
    policies_known = policies_known + 1
    policy = {}
    for i, number in ipairs(numbers(text)) do policy[POLICY_FIELDS[i]] = number end
    policies_of[text] = policy
  end
  return policy
end
end

-- The queue's record: the policy's numbers, the cap, which generations of names there are, and what the queue remembers
-- about itself, by the places below.

local MADE, PAUSED, HUNGRY, TURN, HOLD_UNTIL, SEQ_LAST, STALE, USED = 1, 2, 3, 4, 5, 6, 7, 10
-- STALE + lane: entries of a ready list, STALE + 2: of the succeeded, whose job is elsewhere or gone.
-- USED: whether there may be retries or ghosts; their sets need not be asked while it is 0.
local policy, record, record_changed, cap_text
local NEW_QUEUE, STATE_FORMAT = '0 0 0 0 0 0 0 0 0 0', ('%.0f '):rep(10)

-- What other parts do at the beginning and the end of a call. `is_handover`: jobs that are entered are handed out in the
-- same call, so nobody need be woken for them. `just_entered`: id -> body of these. `units`: kind -> ends of generations of
-- names, if they were read with the record, as `submitted_total` is then; see names.lua.
local parts = {is_handover = false, just_entered = nil, units = {}, are_units_read = false, submitted_total = 0}

local function read_record(with_units)
  local stored
  if with_units then
    stored = call('HMGET', K.meta, 'numbers', 'state', 'cap', 'keys', 'ids', 'submitted_total')
    parts.units.keys, parts.units.ids, parts.submitted_total = stored[4], stored[5], tonumber(stored[6] or 0)
  else
    stored = call('HMGET', K.meta, 'numbers', 'state', 'cap')
  end
  parts.are_units_read = with_units
  policy, record, cap_text = policy_from(stored[1] or POLICY_DEFAULTS), numbers(stored[2] or NEW_QUEUE), stored[3]
  record_changed = false
end

local function set(place, value)
  if record[place] == value then return end
  -- What the text says is remembered for other calls.
  if not record_changed then record, record_changed = {unpack(record, 1, 10)}, true end
  record[place] = value
end

local function add_to(place, n) set(place, record[place] + n) end

local function create() set(MADE, 1) end

-- What whoever asked in vain waits for: anything, or a ready job, because there is none.
local FOR_ANYTHING, FOR_A_JOB = 1, 2
-- Something changed in the queue's favour: whoever waits for it is told once.
local woken, done = false, {}
local function wake()
  if record[HUNGRY] ~= 0 and record[PAUSED] == 0 then
    set(HUNGRY, 0)
    woken = true
  end
end

-- A slot is free: no news for who waits for a job.
local function wake_for_slot()
  if record[HUNGRY] ~= FOR_A_JOB then wake() end
end

-- What flush() writes, as arguments of commands. A member that is taken out and put in again in one flush ends inside.

-- key -> members; key -> scores and members by turns
local set_add, set_remove, sorted_add, sorted_remove, sets_changed = {}, {}, {}, {}, false
-- ids and heads, ids and bodies by turns; ids of jobs that go altogether
local heads_put, bodies_put, gone = {}, {}, {}
-- by lane: entries of the ready list; ids that succeeded; how many other jobs ended, by state
local pushed, succeeded, ended = {[0] = {}, [1] = {}}, {}, {}
-- Totals that grow.
local submitted_n, succeeded_n, dead_n = 0, 0, 0

local function list_in(lists, key)
  local list = lists[key]
  if not list then
    list = {}
    lists[key] = list
  end
  return list
end

-- A list of what is added to or taken out of a set.
local function members_of(lists, key)
  sets_changed = true
  return list_in(lists, key)
end

local function put(lists, key, member)
  local list = members_of(lists, key)
  list[#list + 1] = member
end

local function put_scored(key, score, member)
  local list = members_of(sorted_add, key)
  local n = #list
  list[n + 1], list[n + 2] = score, member
end

-- Runs a command on the arguments, some hundreds at a time; answers what the last of them did.
local function in_pieces(command, key, args)
  local n, answer = #args, nil
  if n <= 512 then return n == 0 and 0 or call(command, key, unpack(args)) end
  for i = 1, n, 512 do answer = call(command, key, unpack(args, i, min(i + 511, n))) end
  return answer
end

local function flush_record()
  -- Entries of jobs whose bytes somebody has removed are not counted.
  for lane = 0, 1 do set(STALE + lane, max(record[STALE + lane], 0)) end
  if record_changed then
    call('HSET', K.meta, 'state', format(STATE_FORMAT, unpack(record)))
    record_changed = false
  end
  if submitted_n > 0 then K.submitted_total = call('HINCRBY', K.meta, 'submitted_total', submitted_n) end
  if succeeded_n > 0 then call('HINCRBY', K.meta, 'succeeded_total', succeeded_n) end
  if dead_n > 0 then call('HINCRBY', K.meta, 'dead_total', dead_n) end
  if woken then call('PUBLISH', 'tg:wake', K.tag:match('^{tg:([^:]*):')) end
  if #done > 0 then call('PUBLISH', 'tg:done', sub(K.tag, 5, -2) .. ':' .. table.concat(done)) end
end

-- Tables are made anew only where the last call left something in them: making and collecting them takes as long as the
-- commands of a small call.
local function let_go()
  if sets_changed then set_add, set_remove, sorted_add, sorted_remove, sets_changed = {}, {}, {}, {}, false end
  if #heads_put > 0 then heads_put = {} end
  if #bodies_put > 0 then bodies_put = {} end
  if #gone > 0 then gone = {} end
  if #pushed[0] > 0 then pushed[0] = {} end
  if #pushed[1] > 0 then pushed[1] = {} end
  if #succeeded > 0 then succeeded = {} end
  if next(ended) then ended = {} end
  if #done > 0 then done = {} end
  submitted_n, succeeded_n, dead_n, woken = 0, 0, 0, false
  parts.forget_jobs()
  parts.forget_aside()
  parts.reset_names()
end

-- Writes everything. An operation that goes on with more jobs calls step() instead.
local function flush()
  parts.encode_changed()
  parts.flush_names()
  parts.flush_aside()
  if sets_changed then
    for key, args in next, set_remove do in_pieces('SREM', key, args) end
    for key, args in next, sorted_remove do in_pieces('ZREM', key, args) end
    for key, args in next, set_add do in_pieces('SADD', key, args) end
    for key, args in next, sorted_add do in_pieces('ZADD', key, args) end
  end
  if #bodies_put > 0 then in_pieces('HSET', K.bodies, bodies_put) end
  if #heads_put > 0 then in_pieces('HSET', K.heads, heads_put) end
  if #gone > 0 then
    in_pieces('HDEL', K.bodies, gone)
    in_pieces('HDEL', K.heads, gone)
  end
  if #pushed[0] > 0 then in_pieces('RPUSH', K.ready[0], pushed[0]) end
  if #pushed[1] > 0 then in_pieces('RPUSH', K.ready[1], pushed[1]) end
  parts.trim_ended()
  flush_record()
end

local function step()
  flush()
  let_go()
end

-- Bytes of what this call has read.
local bytes_read

local function take(keys, args) KEYS, ARGV = keys, args end

local function begin(keys, args, with_units)
  take(keys, args)
  name_keys(KEYS[1])
  read_time()
  read_record(with_units)
  bytes_read, parts.is_handover, parts.just_entered = 0, false, nil
  let_go()
end
