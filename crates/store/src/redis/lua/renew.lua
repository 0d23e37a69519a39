-- flags: allow-oom
-- Prolongs leases by the queue's ttl. Reads no job whose lease is held.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2..]         of each lease: id (16 bytes) and fence (8 bytes)
-- returns           {until, then of each lease: 1 = held, 2 = lost, 3 = cancelled or deleted}

local until_ms = NOW + policy.lease_ttl_ms
local until_text = string.format('%.0f', until_ms)
local answer, held = {until_ms}, {}
for lane = 0, 1 do
  local scores = call('ZMSCORE', LEASES[lane], unpack(ARGV, 2))
  for i = 2, #ARGV do
    if scores[i - 1] then
      held[i] = true
      put(LEASES[lane], ARGV[i], until_text)
    end
  end
end
for i = 2, #ARGV do
  if held[i] then
    answer[i] = 1
  else
    local job = job_of(sub(ARGV[i], 1, 16))
    answer[i] = (not job or job[STATE] == CANCELLED) and 3 or 2
  end
end
flush()
return answer
