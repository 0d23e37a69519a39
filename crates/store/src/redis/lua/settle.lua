-- flags: allow-oom
-- Records how leases ended.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2..]         of each: in one text id (16 bytes), fence (8), outcome (1), wait in ms (8), a number in [0, 1) (8);
--                   the result of a success, else the error
-- returns           of each: 0 = no such job, the state after it = recorded, 10 + the state = stale

local ITEM = '>c16I8BI8d'

local function settle(item, text)
  local id, fence, outcome, after, random = sunpack(ITEM, item)
  local job = jobs[id]
  if holds(job, fence) then
    change(job, false, settled, outcome, after, random, text)
    return job[STATE]
  end
  if free_ghost(id, fence) then wake() end
  if not job then return 0 end
  local again = job[SETTLED] == fence and job[OUTCOME] == outcome
  return again and job[STATE] or 10 + job[STATE]
end

local answers = {}
ahead = min(#ARGV, LOAD_MAX)
for start = 2, #ARGV, 2 * LOAD_MAX do
  local stop = min(start + 2 * LOAD_MAX - 1, #ARGV)
  local ids = {}
  for i = start, stop, 2 do ids[#ids + 1] = sub(ARGV[i], 1, 16) end
  load(ids)
  for i = start, stop, 2 do answers[#answers + 1] = settle(ARGV[i], ARGV[i + 1]) end
  flush()
end
return answers
