-- What every operation begins with: the queue's record, its counters and jobs, and what is to be written.
--
-- KEYS[1]  what every key of the queue begins with; keys.rs lists the suffixes
-- ARGV[1]  the time in ms, or empty for the server's own
--
-- All of this is one library: its functions are made once, at the first call, and begin() resets what belongs to a call.
-- An operation reads, changes tables of Lua, and ends with flush(), which writes all of it with few commands. So one that
-- fails half-way (a job that cannot be read) has written nothing of what it was about to.

local call, byte, sub = redis.call, string.byte, string.sub
local floor, min, max = math.floor, math.min, math.max
local spack, sunpack = struct.pack, struct.unpack

local KEYS, ARGV, NOW, NOW_TEXT

-- Names of the queue's keys; by lane: 0 = first attempts, 1 = retries.
local TAG, META, COUNTS, JOBS, SCHEDULED_SET, DEADLINES, READY_LIST, LEASES, GHOSTS, HISTORY, AWAITED
local names_of, queues_named, QUEUES_NAMED_MAX = {}, 0, 10000
local function name_keys(tag)
  local n = names_of[tag]
  if not n then
    if queues_named == QUEUES_NAMED_MAX then names_of, queues_named = {}, 0 end
    queues_named = queues_named + 1
    n = {READY_LIST = {}, LEASES = {}, GHOSTS = {}, HISTORY = {}, AWAITED = {}}
    for lane = 0, 1 do
      n.READY_LIST[lane], n.LEASES[lane] = tag .. ':ready:' .. lane, tag .. ':leases:' .. lane
      n.GHOSTS[lane] = tag .. ':ghosts:' .. lane
    end
    for state = 4, 7 do n.HISTORY[state], n.AWAITED[state] = tag .. ':ended:' .. state, tag .. ':awaited:' .. state end
    n.META, n.COUNTS, n.JOBS = tag .. ':meta', tag .. ':counts', tag .. ':jobs'
    n.SCHEDULED_SET, n.DEADLINES = tag .. ':scheduled', tag .. ':deadlines'
    names_of[tag] = n
  end
  TAG, META, COUNTS, JOBS, SCHEDULED_SET, DEADLINES = tag, n.META, n.COUNTS, n.JOBS, n.SCHEDULED_SET, n.DEADLINES
  READY_LIST, LEASES, GHOSTS, HISTORY, AWAITED = n.READY_LIST, n.LEASES, n.GHOSTS, n.HISTORY, n.AWAITED
end
local function session_set(session) return TAG .. ':session:' .. session end
local function blamed_set(incarnation) return TAG .. ':blamed:' .. incarnation end

local SCHEDULED, READY, RUNNING, SUCCEEDED, DEAD, CANCELLED, EXPIRED = 1, 2, 3, 4, 5, 6, 7
local STATE_NAME = {'scheduled', 'ready', 'running', 'succeeded', 'dead', 'cancelled', 'expired'}
local NOBODY = string.rep('\0', 16)
local WANT_RESULT, HAS_KEY = 1, 2
-- Jobs read at once, and bytes of jobs after which an operation comes to its end.
local LOAD_MAX, BYTES_MAX = 64, 1048576

local function read_time()
  NOW = tonumber(ARGV[1])
  if not NOW then
    local time = call('TIME')
    NOW = time[1] * 1000 + floor(time[2] / 1000)
  end
  -- A number is written as text each time it is an argument, and slowly.
  NOW_TEXT = string.format('%.0f', NOW)
end

-- The queue's record: the policy's numbers, and what the queue remembers about itself.

local FIELDS = {'made', 'paused', 'hungry', 'turn', 'hold_until'}
local policy, record, record_changes
local META_FIELDS = {unpack(POLICY_FIELDS)}
for i = 1, #FIELDS do META_FIELDS[#META_FIELDS + 1] = FIELDS[i] end
local function read_record()
  local stored = call('HMGET', META, unpack(META_FIELDS))
  policy, record, record_changes = {}, {}, {}
  for i = 1, #POLICY_FIELDS do policy[POLICY_FIELDS[i]] = tonumber(stored[i] or POLICY_DEFAULTS[i]) end
  for i = 1, #FIELDS do record[FIELDS[i]] = tonumber(stored[#POLICY_FIELDS + i] or 0) end
end

local function set(field, value)
  if record[field] ~= value then
    record[field] = value
    record_changes[#record_changes + 1] = field
    record_changes[#record_changes + 1] = value
  end
end

local function create() set('made', 1) end

-- Something changed in the queue's favour: whoever asked in vain is told once.
local woken, done
local function wake()
  if record.hungry == 1 and record.paused == 0 then
    set('hungry', 0)
    woken = true
  end
end

-- Exact counters, read when first needed.

local COUNT_NAMES = {
  'scheduled', 'ready', 'running', 'succeeded', 'dead', 'cancelled', 'expired', 'ready_retries', 'submitted_total',
  'succeeded_total', 'dead_total', 'keys', 'ids', 'seq',
}
local counts, counts_changed

local function count(name)
  if not counts then
    local stored = call('HMGET', COUNTS, unpack(COUNT_NAMES))
    counts = {}
    for i = 1, #COUNT_NAMES do counts[COUNT_NAMES[i]] = tonumber(stored[i] or 0) end
  end
  return counts[name]
end

local function bump(name, by)
  counts_changed[name] = count(name) + by
  counts[name] = counts_changed[name]
end

-- Jobs. A job is a table of the numbers and ids in its head, by the places below; blob.rs has the same layout.

local FORMAT_VERSION = 1
local HEAD, HEAD_BYTES = '>BBBBBBI4I4I4I8I8I8I8I8I8I8I8c16c16c16c16I2I2I4I4I4', 162
local VERSION, STATE, LANE, FLAGS, REASON, OUTCOME, ATTEMPTS, LOSSES, RELEASES = 1, 2, 3, 4, 5, 6, 7, 8, 9
local FENCE, SEQ, DUE, RAN, DEADLINE, FINISHED, SETTLED = 10, 11, 13, 14, 15, 16, 17
local CREATED, SESSION, INCARNATION, BLAMED, HASH, PART = 12, 18, 19, 20, 21, 22
local KEY_LEN, META_LEN, ERROR_LEN, RESULT_LEN = 23, 24, 25, 26

local function parse(id, blob)
  local job = {sunpack(HEAD, blob)}
  if job[VERSION] ~= FORMAT_VERSION then
    error({err = 'TGCORRUPT a job in ' .. JOBS .. ' has the unknown format ' .. job[VERSION]})
  end
  job.id, job.blob = id, blob
  return job
end

-- The blob with what was changed; a new `error` or `result` replaces what stands at its end.
local function encode(job)
  local blob = job.blob
  local tail
  if job.error or job.result then
    local stop = #blob - job[ERROR_LEN] - job[RESULT_LEN]
    local text = job.error or sub(blob, stop + 1, stop + job[ERROR_LEN])
    local result = job.result or sub(blob, stop + job[ERROR_LEN] + 1)
    job[ERROR_LEN], job[RESULT_LEN], job.error, job.result = #text, #result, nil, nil
    tail = sub(blob, HEAD_BYTES + 1, stop) .. text .. result
  else
    tail = sub(blob, HEAD_BYTES + 1)
  end
  job.blob = spack(HEAD, unpack(job, 1, RESULT_LEN)) .. tail
  return job.blob
end

local function key_of(job) return sub(job.blob, HEAD_BYTES + 1, HEAD_BYTES + job[KEY_LEN]) end

-- id -> job; false = there is none.
-- `bytes`: of what is held; `bytes_read`: of everything that this call has read.
local jobs, bytes, bytes_read
-- id -> blob of a job that this call has entered.
local fresh

local function load(ids)
  local missing = {}
  for i = 1, #ids do
    local id = ids[i]
    if jobs[id] == nil then
      if fresh[id] then
        jobs[id] = parse(id, fresh[id])
      else
        missing[#missing + 1] = id
        jobs[id] = false
      end
    end
  end
  if #missing == 0 then return end
  local blobs = call('HMGET', JOBS, unpack(missing))
  for i = 1, #missing do
    if blobs[i] then
      jobs[missing[i]] = parse(missing[i], blobs[i])
      bytes, bytes_read = bytes + #blobs[i], bytes_read + #blobs[i]
    end
  end
end

local function job_of(id)
  if jobs[id] == nil then load({id}) end
  return jobs[id]
end

-- A lease set's member.
local function slot(id, fence) return id .. spack('>I8', fence) end

local function slot_count(lane) return call('ZCARD', LEASES[lane]) + call('ZCARD', GHOSTS[lane]) end

-- What flush() writes.

local dirty, gone, pushed
-- Ids and blobs by turns.
local written
-- key of a sorted set -> member -> score; false = out.
local pending
-- Set by keys.lua.
local flush_names

local function put(key, member, score)
  local members = pending[key]
  if not members then
    members = {}
    pending[key] = members
  end
  members[member] = score
end

-- Takes a member out; true if it was in.
local function take(key, member)
  local members = pending[key]
  if members and members[member] ~= nil then
    local was_in = members[member] ~= false
    members[member] = false
    return was_in
  end
  return call('ZREM', key, member) == 1
end

-- Runs a command on the arguments, some hundreds at a time.
local function in_pieces(command, key, args)
  for i = 1, #args, 512 do call(command, key, unpack(args, i, min(i + 511, #args))) end
end

local function flush_set(key)
  local members = pending[key]
  if not members then return end
  pending[key] = nil
  local added, removed = {}, {}
  for member, score in pairs(members) do
    if score then
      added[#added + 1] = score
      added[#added + 1] = member
    else
      removed[#removed + 1] = member
    end
  end
  in_pieces('ZREM', key, removed)
  in_pieces('ZADD', key, added)
end

local function flush_jobs()
  local n = #written
  for id, job in pairs(dirty) do
    written[n + 1], written[n + 2] = id, job.written or encode(job)
    n = n + 2
  end
  in_pieces('HSET', JOBS, written)
  local ids = {}
  for id in pairs(gone) do ids[#ids + 1] = id end
  in_pieces('HDEL', JOBS, ids)
end

local function flush_record()
  local args = {}
  for name, value in pairs(counts_changed) do
    args[#args + 1] = name
    args[#args + 1] = value
  end
  in_pieces('HSET', COUNTS, args)
  in_pieces('HSET', META, record_changes)
  if woken then call('PUBLISH', 'tg:wake', TAG:match('^{tg:([^:]*):')) end
  if #done > 0 then call('PUBLISH', 'tg:done', sub(TAG, 5, -2) .. ':' .. table.concat(done)) end
end

local function let_go()
  jobs, bytes, fresh, dirty, gone, written = {}, 0, {}, {}, {}, {}
  pushed, pending = {[0] = {}, [1] = {}}, {}
  counts_changed, record_changes, woken, done = {}, {}, false, {}
end

-- Writes everything, and lets go of the jobs: an operation may go on with more of them.
local function flush()
  flush_names()
  flush_jobs()
  local keys = {}
  for key in pairs(pending) do keys[#keys + 1] = key end
  for i = 1, #keys do flush_set(keys[i]) end
  for lane = 0, 1 do in_pieces('RPUSH', READY_LIST[lane], pushed[lane]) end
  flush_record()
  let_go()
end

-- Set by the parts that keep something for the length of a call.
local reset_names, reset_index, reset_ready

local function begin(keys, args)
  KEYS, ARGV = keys, args
  name_keys(KEYS[1])
  read_time()
  read_record()
  counts, bytes_read = nil, 0
  let_go()
  reset_names()
  reset_index()
  reset_ready()
end
