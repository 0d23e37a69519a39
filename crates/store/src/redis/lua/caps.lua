-- flags: allow-oom
-- Sets or adopts a cap; an older order is refused. What runs is counted in the same step.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2], ARGV[3]  epoch and generation
-- ARGV[4]           ms until it expires; 0 = never
-- ARGV[5..7]        cap, retry cap, safe; absent to adopt what is stored
-- returns           {1 = applied, slots, the cap in force: 'cap retry_cap safe expires epoch generation' or nil}

local function is_newer()
  if not cap_text then return true end
  local stored = numbers(cap_text)
  local epoch, generation = tonumber(ARGV[2]), tonumber(ARGV[3])
  return epoch > stored[5] or (epoch == stored[5] and generation >= stored[6])
end

made.caps = function()
  create()
  local applied = is_newer()
  if applied then
    local value = ARGV[5] and ARGV[5] .. ' ' .. ARGV[6] .. ' ' .. ARGV[7] or (cap_text and cap_text:match('^%d+ %d+ %d+'))
    if value then
      local ttl = tonumber(ARGV[4])
      local expires = ttl == 0 and '0' or as_text(NOW + ttl)
      cap_text = value .. ' ' .. expires .. ' ' .. ARGV[2] .. ' ' .. ARGV[3]
      call('HSET', K.meta, 'cap', cap_text)
    end
    wake()
  end
  flush()
  return {applied and 1 or 0, slot_count(0) + slot_count(1), cap_text}
end
