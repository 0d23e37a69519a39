-- flags: allow-oom
-- Pauses or resumes a queue.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2]           1 = pause, 0 = resume
-- returns           1, or 0 for a queue that does not exist

made.pause = function()
  if record[MADE] == 0 then return 0 end
  set(PAUSED, tonumber(ARGV[2]))
  wake()
  flush()
  return 1
end
