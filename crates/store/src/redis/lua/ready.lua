-- The ready jobs of a lane in order. Entries of jobs that stopped being ready otherwise than by their turn are stale and
-- dropped on the way.

-- Read at once at first. `tired`: there may be more than this call has found.
local READ_MIN, tired = 8, false
local reset_ready, is_ready, pop, next_ready, ready_left, trim_lists
do

-- Stale entries dropped in one call at most.
local STALE_MAX = 2000
local stale, read_ahead = 0, {}

function reset_ready()
  tired, stale = false, 0
  if next(read_ahead) then read_ahead = {} end
end

local function list_of(lane)
  local list = read_ahead[lane]
  if not list then
    list = {entries = {}, at = 1, popped = 0, size = READ_MIN}
    read_ahead[lane] = list
  end
  return list
end

function is_ready(entry, lane)
  local job = jobs[sub(entry, 1, 16)]
  if not job or job[STATE] ~= READY or job[LANE] ~= lane then return nil end
  if job.fresh then return #entry == 16 and job end
  return entry == slot(job.id, job[SEQ]) and job
end

-- Whether a job that was set aside without its head has left this entry, which nobody has counted as stale. Where that is
-- uncertain it is said to be so: too many stale ones cost time, too few would let a cancelled job run.
local function is_uncounted(entry)
  local job = jobs[sub(entry, 1, 16)]
  return job and job[REASON] == parts.UNREADABLE and #entry > 16 and entry ~= slot(job.id, job[SEQ])
end

-- The head of the list leaves it.
function pop(lane)
  local list = list_of(lane)
  list.at, list.popped = list.at + 1, list.popped + 1
  add_to(STALE + lane, -1)
end

-- The lane's next job, which stays where it is until pop(); nil if there is none. Reads ahead, at most `ahead` of them.
function next_ready(lane, ahead)
  local list = list_of(lane)
  while stale < STALE_MAX do
    if list.at > #list.entries then
      if list.ended then return nil end
      if bytes_read > BYTES_MAX then
        tired = true
        return nil
      end
      local n = min(ahead, list.size)
      list.entries, list.at = call('LRANGE', K.ready[lane], list.popped, list.popped + n - 1), 1
      list.ended = #list.entries < n
      if #list.entries == 0 then return nil end
      list.size = min(list.size * 2, LOAD_MAX)
      local ids = {}
      for i = 1, #list.entries do ids[i] = sub(list.entries[i], 1, 16) end
      load(ids)
    end
    local entry = list.entries[list.at]
    local job = is_ready(entry, lane)
    if job then return job end
    if is_uncounted(entry) then add_to(STALE + lane, 1) end
    pop(lane)
    stale = stale + 1
  end
  tired = true
end

-- Ready jobs that this call has not taken.
function ready_left(lane)
  return ready_count(lane) - (read_ahead[lane] and read_ahead[lane].popped or 0)
end

-- Takes what was popped and what was stale out of the lists; before flush().
function trim_lists()
  for lane, list in pairs(read_ahead) do
    if list.popped > 0 then call('LTRIM', K.ready[lane], list.popped, -1) end
  end
end

end
