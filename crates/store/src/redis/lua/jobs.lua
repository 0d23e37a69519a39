-- Jobs. A job has a body, which never changes, and a head, which says what has become of it. A job that has just been
-- submitted and waits for nothing has no head yet: it is ready, and everything a head says is still at its beginning.
-- blob.rs has the same layout.

local FORMAT_VERSION = 2
-- Body: created, in which generation its key is, version and flags, payload hash, lengths of key and meta; then these and
-- the payload. Lua takes what it needs by place.
local KEY_END_AT, FLAGS_AT, KEY_AT = 7, 11, 29
local WANT_RESULT, HAS_KEY = 1, 2
-- Head: numbers and ids by the places below, then the error, and the result of a success or the losses of
-- any other job.
local HEAD, HEAD_BYTES = '>BBBBBBI4I4I4I8I8I8I8I8I8I8I4c16c16c16I4', 130
local VERSION, STATE, LANE, FLAGS, REASON, OUTCOME, ATTEMPTS, LOSSES, RELEASES = 1, 2, 3, 4, 5, 6, 7, 8, 9
-- DUE, RAN: 0 = since it was created. KEY_END: 0 = it has no key.
local FENCE, SEQ, DUE, RAN, DEADLINE, FINISHED, SETTLED, KEY_END = 10, 11, 12, 13, 14, 15, 16, 17
local SESSION, INCARNATION, BLAMED, ERROR_LEN = 18, 19, 20, 21

local flags_of, parse, known, read_bodies, load, job_of, body_of, created, key_of, hash_of, result_of, encode, note, drop, slot, slot_count, ready_count
-- id -> job as this call has read or changed it; false = there is none. id -> body of what this call enters.
local jobs, entering, has_entered = {}, {}, false
do

-- head -> what it says, or false; many jobs of one call share their head.
local said, has_said = {}, false

local function read_head(head)
  if #head < HEAD_BYTES then return false end
  local job = {sunpack(HEAD, head)}
  job[ERROR_LEN + 1] = nil
  local is_readable = job[VERSION] == FORMAT_VERSION and job[STATE] >= SCHEDULED and job[STATE] <= EXPIRED
    and job[LANE] <= 1 and #head >= HEAD_BYTES + job[ERROR_LEN]
  return is_readable and job
end

-- False for a head that cannot be read.
function parse(head)
  local job = said[head]
  if job == nil then
    job = read_head(head)
    said[head], has_said = job, true
  end
  return job
end

-- A body that says what it should.
local function is_whole(body)
  return body and #body >= KEY_AT - 1 and floor(byte(body, FLAGS_AT) / 16) == FORMAT_VERSION
    and #body >= KEY_AT - 1 + byte(body, KEY_AT - 5) + (sunpack('>I4', body, KEY_AT - 4))
end
parts.is_whole = is_whole

-- Stands for a body that cannot be read, or is not there.
function parts.empty_body()
  return sub(spack('>I8I4', NOW, 0), 3) .. string.char(FORMAT_VERSION * 16) .. ('\0'):rep(KEY_AT - 1 - FLAGS_AT)
end

function flags_of(body) return byte(body, FLAGS_AT) % 16 end

local function first_head(body)
  return {FORMAT_VERSION, READY, 0, flags_of(body), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    (sunpack('>I4', body, KEY_END_AT)), NOBODY, NOBODY, NOBODY, 0}
end

local changed, jobs_known, has_changed = {}, false, false
parts.forget_jobs = function()
  if jobs_known then jobs, jobs_known = {}, false end
  if has_changed then changed, has_changed = {}, false end
  if has_entered then entering, has_entered = {}, false end
  if has_said then said, has_said = {}, false end
end

-- `fresh`: it has no head. A job that cannot be read is set aside, and dead from now on.
function known(id, head, body)
  local job, is_readable = nil, true
  if head and parse(head) then
    job = {unpack(parse(head), 1, ERROR_LEN)}
    job.head = head
  elseif not head and is_whole(body) then
    job = first_head(body)
    job.fresh, job.body = true, body
  else
    is_readable = false
    if head then body = read_bodies({id})[1] end
    job = first_head(is_whole(body) and body or parts.empty_body())
    -- Where the indexes have it only its head knew; one without a head is ready.
    if head then job[STATE] = EXPIRED end
  end
  job.id = id
  jobs[id], jobs_known = job, true
  if not is_readable then parts.set_aside(job, head, body) end
  return job
end

-- Those that a handover has just entered, if they are all of them.
local function entered_bodies(ids)
  local entered, bodies = parts.just_entered, {}
  for i = 1, #ids do
    local body = entered[ids[i]]
    if not body then return nil end
    bodies[i] = body
  end
  return bodies
end

function read_bodies(ids)
  local bodies = parts.just_entered and entered_bodies(ids) or call('HMGET', K.bodies, unpack(ids))
  for i = 1, #ids do if bodies[i] then bytes_read = bytes_read + #bodies[i] end end
  return bodies
end

-- At most some hundreds.
function load(ids)
  local missing = {}
  for i = 1, #ids do
    local id = ids[i]
    if jobs[id] == nil then
      if entering[id] then
        known(id, nil, entering[id])
      else
        missing[#missing + 1] = id
        jobs[id], jobs_known = false, true
      end
    end
  end
  if #missing == 0 then return end
  local heads, headless = call('HMGET', K.heads, unpack(missing)), {}
  for i = 1, #missing do
    if heads[i] then
      bytes_read = bytes_read + #heads[i]
      known(missing[i], heads[i])
    else
      headless[#headless + 1] = missing[i]
    end
  end
  if #headless == 0 then return end
  local bodies = read_bodies(headless)
  for i = 1, #headless do
    if bodies[i] then known(headless[i], nil, bodies[i]) end
  end
end

function job_of(id)
  if jobs[id] == nil then load({id}) end
  return jobs[id]
end

-- `broken`: it cannot be read, and an empty one stands for it, until a lease or a list sets the job aside.
function body_of(job)
  if not job.body then
    local body = read_bodies({job.id})[1]
    job.broken = not is_whole(body)
    job.kept, job.body = body, job.broken and parts.empty_body() or body
  end
  return job.body
end

function created(job) return (sunpack('>I8', '\0\0' .. sub(body_of(job), 1, KEY_END_AT - 1))) end
function key_of(body) return sub(body, KEY_AT, KEY_AT - 1 + byte(body, KEY_AT - 5)) end
function hash_of(body) return sub(body, FLAGS_AT + 1, FLAGS_AT + 12) end

function result_of(job)
  return job.result or (job.head and sub(job.head, HEAD_BYTES + 1 + job[ERROR_LEN])) or ''
end

-- The head with what was changed; a new `error` or `result` replaces what stands at its end.
function encode(job)
  local text = job.error or (job.head and sub(job.head, HEAD_BYTES + 1, HEAD_BYTES + job[ERROR_LEN])) or ''
  local result = result_of(job)
  job[ERROR_LEN] = #text
  return spack(HEAD, unpack(job, 1, ERROR_LEN)) .. text .. result
end

parts.encode_changed = function()
  if not has_changed then return end
  local n = #heads_put
  for id, job in pairs(changed) do
    heads_put[n + 1], heads_put[n + 2] = id, job.encoded or encode(job)
    n = n + 2
  end
end

-- What was changed is written by the next flush().
function note(job)
  job.fresh, job.encoded = nil, nil
  changed[job.id], has_changed = job, true
end

-- The job is gone.
function drop(job)
  jobs[job.id], changed[job.id] = false, nil
  gone[#gone + 1] = job.id
end

-- A lease set's member, and an entry of a ready list for a job that has a head. One without has its id alone there.
function slot(id, number) return id .. spack('>I8', number) end

function slot_count(lane)
  if lane == 1 and record[USED] == 0 then return 0 end
  return call('ZCARD', K.leases[lane]) + (record[USED] == 0 and 0 or call('ZCARD', K.ghosts[lane]))
end

function ready_count(lane)
  if lane == 1 and record[USED] == 0 then return 0 end
  return call('LLEN', K.ready[lane]) - record[STALE + lane]
end

end
