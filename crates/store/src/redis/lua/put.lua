-- flags: allow-oom
-- Writes a policy record; an older one is refused.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2], ARGV[3]  epoch and generation
-- ARGV[4..]         fields and values of the record's policy
-- returns           1 = written, 0 = an older version

made.put = function()
  create()
  local epoch, generation = tonumber(ARGV[2]), tonumber(ARGV[3])
  local stored = call('HMGET', K.meta, 'policy_epoch', 'policy_generation')
  if stored[1] then
    local e, g = tonumber(stored[1]), tonumber(stored[2])
    if epoch < e or (epoch == e and generation < g) then return 0 end
  end
  call('HSET', K.meta, 'policy_epoch', ARGV[2], 'policy_generation', ARGV[3], unpack(ARGV, 4))
  wake()
  flush()
  return 1
end
