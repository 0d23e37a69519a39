-- flags: 
-- Enters jobs: known key or request id first, then room, then the job.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2..]         of each job: its id; its blob up to SEQ; its blob from DEADLINE on; then in one text: 1 = may wait or
--                   has a deadline (1 byte), due, delay and relative deadline in ms (8 bytes each), payload hash (16),
--                   1 = the name is a key, else a request id (1), the name's part (2), the name
-- returns           of each job one of
--                   {1, state} entered
--                   {2, id, state or 0, 1 = the job is kept, result or nil} a duplicate
--                   {3, depth, max} full, {4, max} no room for another key, {5, id} the key is another payload's

-- An entry that another job holds under the same name.
local function duplicate(entry, hash)
  if entry.hash ~= hash then return {5, entry.id} end
  local first = job_of(entry.id)
  if not first then return {2, entry.id, entry.ended, 0, false} end
  local result = first[STATE] == SUCCEEDED and sub(first.blob, #first.blob - first[RESULT_LEN] + 1)
  return {2, entry.id, first[STATE], 1, result}
end

local entered_ready = {1, READY}
-- Ready at once and without a deadline: only the times are missing.
local function enter_ready(id, head, tail)
  local seq = count('seq') + 1
  counts.seq = seq
  local blob = head .. spack('>I8I8I8I8', seq, NOW, NOW, NOW) .. tail
  local n, list = #written, pushed[0]
  written[n + 1], written[n + 2], fresh[id] = id, blob, blob
  list[#list + 1] = slot(id, seq)
  return entered_ready
end

local function enter(id, head, tail, due, delay, deadline_after)
  local job = parse(id, head .. spack('>I8I8I8I8', 0, NOW, due, NOW) .. tail)
  job[DUE] = max(job[DUE], NOW + delay)
  if deadline_after > 0 then job[DEADLINE] = NOW + deadline_after end
  job[STATE] = job[DUE] > NOW and SCHEDULED or READY
  index(job)
  jobs[id], dirty[id] = job, job
  return {1, job[STATE]}
end

local depth = count('scheduled') + count('ready') + count('running') + count('dead')
local ready = 0

local function submit(id, head, tail, extra)
  local special, due, delay, deadline_after, hash, keyed, part = sunpack('>BI8I8I8c16BI2', extra)
  local kind, name = keyed == 1 and 'keys' or 'ids', sub(extra, 45)
  local named = keyed == 1 or name ~= ''
  local known = named and entry_of(kind, part, name)
  if in_force(known) then return duplicate(known, hash) end
  if depth >= policy.max_depth then return {3, depth, policy.max_depth} end
  if keyed == 1 and not known and count('keys') >= policy.max_keys then return {4, policy.max_keys} end
  if named then
    if not known then bump(kind, 1) end
    write_entry(kind, part, name, id, hash, 0, keyed == 1 and 0 or NOW + REQUEST_ID_WINDOW_MS)
  end
  depth = depth + 1
  if special == 1 then return enter(id, head, tail, due, delay, deadline_after) end
  ready = ready + 1
  return enter_ready(id, head, tail)
end

create()
local answers, n = {}, 0
for i = 2, #ARGV, 4 do
  local answer = submit(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
  if answer[1] == 1 then n = n + 1 end
  answers[#answers + 1] = answer
end
if ready > 0 then
  bump('ready', ready)
  bump('seq', 0)
  wake()
end
if n > 0 then bump('submitted_total', n) end
flush()
return answers
