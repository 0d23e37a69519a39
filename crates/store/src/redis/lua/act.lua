-- flags: allow-oom
-- Cancels, redrives or deletes; or sets aside what only the caller cannot read.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2]           'cancel', 'redrive', 'delete' or 'aside'
-- ARGV[3..]         ids
-- returns           of each: {0} no such job, {1, state after it or 0} done, {2, state} wrong state, {3, id} key taken

local function leave_history(job)
  local state, id = job[STATE], job.id
  if state == SUCCEEDED then
    -- In the list its entry is stale from now on.
    if call('ZREM', K.awaited[state], id) == 0 then add_to(STALE + 2, 1) end
  else
    put(sorted_remove, K.history[state], id)
    put(sorted_remove, K.awaited[state], id)
  end
end

local function cancel(job)
  if job[STATE] >= SUCCEEDED then return {2, job[STATE]} end
  -- The worker may be at work for a while yet: its slot stays until it says so or the lease ends.
  change(job, true, cancelled)
  return {1, CANCELLED}
end

local function redrive(job)
  if job[STATE] ~= DEAD or job[REASON] == parts.UNREADABLE then return {2, job[STATE]} end
  if job[KEY_END] ~= 0 then
    local name = key_of(body_of(job))
    local owner = in_force('keys', name, find_names('keys', {name})[1])
    if owner and sub(owner, 1, 16) ~= job.id then return {3, sub(owner, 1, 16)} end
    move_key(job, name_end(policy.idempotency_window_ms), SUCCEEDED)
  end
  leave_history(job)
  change(job, false, redriven)
  return {1, READY}
end

local function delete(job)
  if job[REASON] == parts.UNREADABLE then parts.forget_bytes(job) end
  if job[STATE] >= SUCCEEDED then
    leave_history(job)
  else
    close_key(job, CANCELLED)
    -- Whoever waits for its result waits in vain.
    if job[FLAGS] % 2 == WANT_RESULT then done[#done + 1] = job.id end
  end
  remove(job)
  return {1, 0}
end

local function aside(job)
  local body = body_of(job)
  if job.broken then body = job.kept end
  -- Somebody else may have been faster.
  if job.broken or job[REASON] ~= parts.UNREADABLE then parts.set_aside(job, job.head, body, true) end
  return {1, DEAD}
end

local acts = {cancel = cancel, redrive = redrive, delete = delete, aside = aside}

made.act = function()
  local act, answers = acts[ARGV[2]], {}
  for i = 3, #ARGV do
    local job = job_of(ARGV[i])
    if job and job.aside then
      -- From now on it is a dead one like others.
      step()
      job = job_of(ARGV[i])
    end
    answers[#answers + 1] = job and act(job) or {0}
    if bytes_read > BYTES_MAX then
      step()
      bytes_read = 0
    end
  end
  flush()
  return answers
end
