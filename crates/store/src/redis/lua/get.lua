-- flags: no-writes
-- Reads jobs.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2..]         ids
-- returns           of each by turns: its head or nil, its body or nil, when its lease ends or 0

made.get = function()
  local answers, n = {}, 0
  local heads = call('HMGET', K.heads, unpack(ARGV, 2))
  local bodies = call('HMGET', K.bodies, unpack(ARGV, 2))
  for i = 1, #heads do
    local head, until_ms = heads[i], false
    if head and bodies[i] then
      local job = parse(head)
      until_ms = job and job[STATE] == RUNNING and call('ZSCORE', K.leases[job[LANE]], slot(ARGV[i + 1], job[FENCE]))
    end
    -- An empty head is none, and one that is stored so cannot be read.
    answers[n + 1], answers[n + 2], answers[n + 3] = head == '' and '\0' or head, bodies[i], tonumber(until_ms or 0)
    n = n + 3
  end
  return answers
end
