-- flags: allow-oom
-- The store's clock and identity; raises the watermark.
--
-- KEYS[1]  the store's own record
-- ARGV[1]  the time in ms, or empty for the server's own
-- ARGV[2]  an incarnation, should the store have none yet
-- returns  {time, incarnation, watermark before}

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
redis.call('HSETNX', KEYS[1], 'incarnation', ARGV[2])
local stored = redis.call('HMGET', KEYS[1], 'incarnation', 'watermark_ms')
local watermark = tonumber(stored[2] or 0)
if now > watermark then redis.call('HSET', KEYS[1], 'watermark_ms', string.format('%.0f', now)) end
return {now, stored[1], watermark}
