-- flags: allow-oom
-- A worker process is back on a new stream: losses blamed on it are taken back, the leases it holds get the new session.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2], ARGV[3]  session and incarnation
-- ARGV[4..]         of each lease: id (16 bytes) and fence (8 bytes)
-- returns           {1 = call again, nothing was done about the leases; else of each lease: 1 = kept, 0 = lost}

-- True if there may be more of them.
local function take_back_losses(incarnation)
  local blamed = call('ZRANGE', blamed_set(incarnation), 0, LOAD_MAX - 1)
  load(blamed)
  for i = 1, #blamed do
    local job = jobs[blamed[i]]
    if job and job[STATE] < SUCCEEDED and job[BLAMED] == incarnation and job[LOSSES] > 0 then
      change(job, true, loss_taken_back)
    else
      put(sorted_remove, blamed_set(incarnation), blamed[i])
    end
  end
  step()
  return #blamed == LOAD_MAX
end

local function hold(job, session, incarnation, until_text)
  job[SESSION], job[INCARNATION], job.until_ms = session, incarnation, until_text
end

made.reclaim = function()
  local session, incarnation = ARGV[2], ARGV[3]
  if take_back_losses(incarnation) then return {1} end
  local until_text, answer = as_text(NOW + policy.lease_ttl_ms), {0}
  for i = 4, #ARGV do
    local id, fence = sunpack('>c16I8', ARGV[i])
    local job = job_of(id)
    local held = holds(job, fence)
    if held then change(job, true, hold, session, incarnation, until_text) end
    answer[#answer + 1] = held and 1 or 0
  end
  flush()
  return answer
end
