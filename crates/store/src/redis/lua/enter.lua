-- flags: allow-oom
-- Enters names of queues, so that they can be listed. A function, because a plain ZADD is refused when memory is full,
-- and then a router that starts could lease nothing.
--
-- KEYS[1]  the names of all queues, equal scores
-- ARGV     names
-- returns  how many are new

made.enter = function()
  local args = {}
  for i = 1, #ARGV do
    args[2 * i - 1], args[2 * i] = 0, ARGV[i]
  end
  return call('ZADD', KEYS[1], unpack(args))
end
