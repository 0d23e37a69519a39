-- flags: allow-oom
-- A worker process is back on a new stream: losses blamed on it are taken back, the leases it holds get the new session.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2], ARGV[3]  session and incarnation
-- ARGV[4..]         of each lease: id (16 bytes) and fence (8 bytes)
-- returns           {1 = call again, nothing was done about the leases; else of each lease: 1 = kept, 0 = lost}

local session, incarnation = ARGV[2], ARGV[3]

local blamed = call('ZRANGE', blamed_set(incarnation), 0, LOAD_MAX - 1)
load(blamed)
for i = 1, #blamed do
  local job = jobs[blamed[i]]
  if job and job[STATE] < SUCCEEDED and job[BLAMED] == incarnation and job[LOSSES] > 0 then
    change(job, true, loss_taken_back)
  else
    put(blamed_set(incarnation), blamed[i], false)
  end
end
if #blamed == LOAD_MAX then
  flush()
  return {1}
end

local until_text = string.format('%.0f', NOW + policy.lease_ttl_ms)

local function hold(job)
  job[SESSION], job[INCARNATION], job.until_ms = session, incarnation, until_text
end

local answer = {0}
for i = 4, #ARGV do
  local id, fence = sunpack('>c16I8', ARGV[i])
  local job = job_of(id)
  local held = holds(job, fence)
  if held then change(job, true, hold) end
  answer[#answer + 1] = held and 1 or 0
  if bytes > BYTES_MAX then flush() end
end
flush()
return answer
