-- flags: allow-oom
-- Hands out ready jobs under the caps; sets the hungry flag when a request is not met in full.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2]           grants in this call at most
-- ARGV[3]           the time after which nobody waits for the answer, or empty: then nothing is granted
-- ARGV[4..]         of each want: session and incarnation (16 bytes each) in one text, jobs at most
-- returns           {1 = unmet, time, policy or nil, then of each grant: index of its want from 0, id, blob}

-- Jobs that run at most: in all, and of them retries. Without a cap record a queue that costs a resource has none.
local function caps()
  local stored = call('HMGET', META, 'cap', 'retry_cap', 'safe', 'cap_expires')
  if record.paused == 1 then return 0, 0 end
  if not stored[1] then
    if policy.costs == 1 then return 0, 0 end
    return math.huge, math.huge
  end
  local cap, retry_cap, safe, expires = tonumber(stored[1]), tonumber(stored[2]), tonumber(stored[3]), tonumber(stored[4])
  if expires ~= 0 and NOW >= expires then
    cap = min(cap, safe)
    return cap, cap
  end
  return cap, min(max(retry_cap, 1), cap)
end

local cap, retry_cap = caps()
local slots = {[0] = slot_count(0), [1] = slot_count(1)}

-- The next job that may be leased: the lanes take turns, and one that is empty or full passes.
local function take_ready(ahead)
  while slots[0] + slots[1] < cap do
    local lane = record.turn
    local job = (lane == 0 or slots[1] < retry_cap) and head(lane, ahead)
    if not job then
      lane = 1 - lane
      job = (lane == 0 or slots[1] < retry_cap) and head(lane, ahead)
    end
    if not job then return nil end
    pop(lane)
    if not past_deadline(job) then
      slots[lane] = slots[lane] + 1
      set('turn', 1 - lane)
      return job
    end
    change(job, false, expired)
  end
end

create()
local wants, room, wanted = {}, {}, 0
for i = 4, #ARGV, 2 do
  wants[#wants + 1] = ARGV[i]
  room[#room + 1] = tonumber(ARGV[i + 1])
  wanted = wanted + room[#room]
end
local until_text = string.format('%.0f', NOW + policy.lease_ttl_ms)
local answer = {0, NOW, call('HGET', META, 'policy')}
local granted, next_want, most = 0, 1, min(wanted, tonumber(ARGV[2]))
-- A server that stalled works off what its callers have given up on: such jobs would run with nobody.
if NOW > (tonumber(ARGV[3]) or math.huge) then most = 0 end
while granted < most do
  local job = take_ready(most - granted)
  if not job then break end
  while room[next_want] == 0 do next_want = next_want % #room + 1 end
  local want, n = wants[next_want], #answer
  change(job, false, leased, sub(want, 1, 16), sub(want, 17, 32), until_text)
  job.written = encode(job)
  answer[n + 1], answer[n + 2], answer[n + 3] = next_want - 1, job.id, job.written
  room[next_want] = room[next_want] - 1
  next_want = next_want % #room + 1
  granted = granted + 1
end
if granted < wanted then
  answer[1] = 1
  set('hungry', 1)
  -- There is more, only not in this call.
  if tired then wake() end
end
trim_lists()
flush()
return answer
