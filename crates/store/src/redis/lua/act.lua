-- flags: allow-oom
-- Cancels, redrives or deletes.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2]           'cancel', 'redrive' or 'delete'
-- ARGV[3..]         ids
-- returns           of each: {0} no such job, {1, state after it or 0} done, {2, state} wrong state, {3, id} key taken

local function leave_history(job)
  put(HISTORY[job[STATE]], job.id, false)
  put(AWAITED[job[STATE]], job.id, false)
end

local function cancel(job)
  if job[STATE] >= SUCCEEDED then return {2, job[STATE]} end
  -- The worker may be at work for a while yet: its slot stays until it says so or the lease ends.
  change(job, true, cancelled)
  return {1, CANCELLED}
end

local function redrive(job)
  if job[STATE] ~= DEAD then return {2, job[STATE]} end
  if job[FLAGS] >= HAS_KEY then
    local part, name = job[PART], key_of(job)
    local owner = entry_of('keys', part, name)
    if in_force(owner) and owner.id ~= job.id then return {3, owner.id} end
    put_entry('keys', part, name, job.id, job[HASH], 0, 0)
  end
  leave_history(job)
  change(job, false, redriven)
  return {1, READY}
end

local function delete(job)
  if job[STATE] >= SUCCEEDED then
    leave_history(job)
  else
    close_key(job, CANCELLED)
  end
  remove(job)
  return {1, 0}
end

local act = ({cancel = cancel, redrive = redrive, delete = delete})[ARGV[2]]
local answers = {}
ahead = min(#ARGV, LOAD_MAX)
for i = 3, #ARGV do
  local job = job_of(ARGV[i])
  answers[#answers + 1] = job and act(job) or {0}
  if bytes > BYTES_MAX then flush() end
end
flush()
return answers
