#!lua
-- Enters jobs: known key or request id first, then room, then the job.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2..]         of each job: its id; its blob; then in one text: delay and relative deadline in ms (8 bytes each),
--                   the part of the request id (2 bytes), the request id
-- returns           of each job one of
--                   {1, state} entered
--                   {2, id, state or 0, 1 = the job is kept, result or nil} a duplicate
--                   {3, depth, max} full, {4, max} no room for another key, {5, id} the key is another payload's
-- includes          lib keys index

local function duplicate(entry, job)
  if entry.hash ~= job[HASH] then return {5, entry.id} end
  local first = job_of(entry.id)
  if not first then return {2, entry.id, entry.ended, 0, false} end
  local result = first[STATE] == SUCCEEDED and sub(first.blob, #first.blob - first[RESULT_LEN] + 1)
  return {2, entry.id, first[STATE], 1, result}
end

local function enter(job, delay, deadline_after)
  job[DUE] = max(job[DUE], NOW + delay)
  if deadline_after > 0 then job[DEADLINE] = NOW + deadline_after end
  job[STATE] = job[DUE] > NOW and SCHEDULED or READY
  job[CREATED], job[RAN] = NOW, NOW
  bump('submitted_total', 1)
  index(job)
  jobs[job.id], dirty[job.id] = job, job
  return {1, job[STATE]}
end

local function submit(job, extra)
  local delay, deadline_after, part = sunpack('>I8I8I2', extra)
  local kind, name = 'ids', sub(extra, 19)
  if job[FLAGS] >= HAS_KEY then kind, part, name = 'keys', job[PART], key_of(job) end
  local named = kind == 'keys' or name ~= ''
  local known = named and entry_of(kind, part, name)
  if in_force(known) then return duplicate(known, job) end
  local depth = count('scheduled') + count('ready') + count('running') + count('dead')
  if depth >= policy.max_depth then return {3, depth, policy.max_depth} end
  if kind == 'keys' and not known and count('keys') >= policy.max_keys then return {4, policy.max_keys} end
  if named then
    put_entry(kind, part, name, job.id, job[HASH], 0, kind == 'ids' and NOW + REQUEST_ID_WINDOW_MS or 0)
  end
  return enter(job, delay, deadline_after)
end

create()
local answers = {}
for i = 2, #ARGV, 3 do answers[#answers + 1] = submit(parse(ARGV[i], ARGV[i + 1]), ARGV[i + 2]) end
flush()
return answers
