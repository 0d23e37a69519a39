-- flags: allow-oom
-- Prolongs leases by the queue's ttl. Reads no job whose lease is held.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2..]         of each lease: id (16 bytes) and fence (8 bytes)
-- returns           {until} if all are held, else {until, then of each lease: 1 = held, 2 = lost, 3 = cancelled or
--                   deleted}

-- Prolongs what is held in a lane; answers how many ends have changed by that.
local function prolong(lane, until_text)
  local args = {}
  for i = 2, #ARGV do args[2 * i - 3], args[2 * i - 2] = until_text, ARGV[i] end
  return call('ZADD', K.leases[lane], 'XX', 'CH', unpack(args))
end

local function held_in(lane, held)
  local scores = call('ZMSCORE', K.leases[lane], unpack(ARGV, 2))
  for i = 1, #scores do held[i] = held[i] or scores[i] end
end

made.renew = function()
  local until_ms = NOW + policy.lease_ttl_ms
  local until_text, n = as_text(until_ms), #ARGV - 1
  local answer, held = {until_ms}, {}
  local prolonged = prolong(0, until_text)
  if prolonged == n then return answer end
  if record[USED] == 1 then prolonged = prolonged + prolong(1, until_text) end
  if prolonged == n then return answer end
  held_in(0, held)
  held_in(1, held)
  for i = 1, n do
    if held[i] then
      answer[i + 1] = 1
    else
      local job = job_of(sub(ARGV[i + 1], 1, 16))
      answer[i + 1] = (not job or job[STATE] == CANCELLED) and 3 or 2
    end
  end
  return answer
end
