-- flags: no-writes
-- Reads jobs.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2..]         ids
-- returns           of each by turns: its blob or nil, when its lease ends or 0

local answers = {}
for i = 2, #ARGV do
  local job = job_of(ARGV[i])
  local until_ms = job and job[STATE] == RUNNING and call('ZSCORE', LEASES[job[LANE]], slot(job.id, job[FENCE]))
  answers[#answers + 1] = job and job.blob
  answers[#answers + 1] = tonumber(until_ms or 0)
end
return answers
