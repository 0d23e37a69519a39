-- flags: allow-oom
-- The store's clock and identity; raises the watermark.
--
-- KEYS[1]  the store's own record
-- ARGV[1]  the time in ms, or empty for the server's own
-- ARGV[2]  an incarnation, should the store have none yet
-- ARGV[3]  the version of what is stored, should it be new
-- returns  {time, incarnation, watermark before, version of what is stored}

made.pulse = function()
  read_time()
  if call('HSETNX', KEYS[1], 'incarnation', ARGV[2]) == 1 then call('HSET', KEYS[1], 'schema', ARGV[3]) end
  local stored = call('HMGET', KEYS[1], 'incarnation', 'watermark_ms', 'schema')
  local watermark = tonumber(stored[2] or 0)
  if NOW > watermark then call('HSET', KEYS[1], 'watermark_ms', as_text(NOW)) end
  return {NOW, stored[1], watermark, tonumber(stored[3] or 1)}
end
