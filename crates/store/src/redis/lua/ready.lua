-- The ready jobs of a lane in order. Entries of jobs that stopped being ready otherwise than by their turn are stale and
-- dropped on the way.

-- Stale entries dropped in one call at most; `tired` says that there may be more.
local STALE_MAX = 2000
local READ_MIN = 8
local tired, stale, heads

reset_ready = function()
  tired, stale, heads = false, 0, {}
end

-- The lane's next job, which stays where it is until pop(); nil if there is none. Reads ahead, at most `ahead` of them.
local function head(lane, ahead)
  local list = heads[lane]
  if not list then
    list = {entries = {}, at = 1, popped = 0, size = READ_MIN}
    heads[lane] = list
  end
  while stale < STALE_MAX do
    if list.at > #list.entries then
      if list.ended then return nil end
      if bytes > BYTES_MAX then
        tired = true
        return nil
      end
      local n = min(ahead, list.size)
      list.entries, list.at = call('LRANGE', READY_LIST[lane], list.popped, list.popped + n - 1), 1
      list.ended = #list.entries < n
      if #list.entries == 0 then return nil end
      list.size = min(list.size * 2, LOAD_MAX)
      local ids = {}
      for i = 1, #list.entries do ids[i] = sub(list.entries[i], 1, 16) end
      load(ids)
    end
    local entry = list.entries[list.at]
    local job = jobs[sub(entry, 1, 16)]
    if job and job[STATE] == READY and job[LANE] == lane and entry == slot(job.id, job[SEQ]) then return job end
    list.at, list.popped, stale = list.at + 1, list.popped + 1, stale + 1
  end
  tired = true
end

local function pop(lane)
  local list = heads[lane]
  list.at, list.popped = list.at + 1, list.popped + 1
end

-- Takes what was popped and what was stale out of the lists; before flush().
local function trim_lists()
  for lane, list in pairs(heads) do
    if list.popped > 0 then call('LTRIM', READY_LIST[lane], list.popped, -1) end
  end
end
