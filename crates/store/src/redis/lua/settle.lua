-- flags: allow-oom
-- Records how leases ended.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2..]         of each: in one text id (16 bytes), fence (8), and of all but a success without a result outcome (1),
--                   wait in ms (8), a number in [0, 1) (8), the result of a success or else the error
-- returns           a byte of each: 0 = no such job, the state after it = recorded, 10 + the state = stale

local PLAIN_BYTES, OUTCOME_AT, TEXT_AT, SETTLED_ONE = 24, 25, 42, string.char(SUCCEEDED)

-- What a success makes of a running job's head, put together from its parts in the order of HEAD: how the new head begins,
-- the fence, lane and session; nothing where more has to be done than with most jobs (a result is awaited, a loss is blamed
-- on somebody, the key needs another end). life.lua says the same of one job.
local RUNNING_START, SUCCEEDED_START =
  string.char(FORMAT_VERSION, RUNNING), string.char(FORMAT_VERSION, SUCCEEDED)
local no_reason, no_releases, no_error = string.char(0, O_SUCCEEDED), ('\0'):rep(4), ('\0'):rep(4)
local function success_of(head, now)
  if #head < HEAD_BYTES or sub(head, 1, 2) ~= RUNNING_START or byte(head, 3) > 1 or byte(head, 4) % 2 == WANT_RESULT
    or sub(head, 111, 126) ~= NOBODY
  then
    return nil
  end
  local attempts, key_end = sunpack('>I4', head, 7), sunpack('>I4', head, 75)
  if not ends_late_enough(key_end) then return nil end
  local fence = sub(head, 19, 26)
  return SUCCEEDED_START .. sub(head, 3, 4) .. no_reason .. spack('>I4', attempts + 1) .. sub(head, 11, 14)
    .. no_releases .. sub(head, 19, 58) .. now .. fence .. sub(head, 75, 126) .. no_error, fence, byte(head, 3),
    sub(head, 79, 94)
end

-- Many jobs share their head: false, or what a success makes of it and the lists that its leases leave.
local function common_success(head, now)
  local start, fence, lane, session = success_of(head, now)
  return start and {
    start = start, fence = fence, leases = members_of(sorted_remove, K.leases[lane]),
    held = members_of(set_remove, session_set(session)),
  } or false
end

-- One success without a result: most calls, where there is little to do. The same as below, without the lists that many
-- jobs need. Answers whether it was that.
local function settle_one(item)
  if #item ~= PLAIN_BYTES then return false end
  local id = sub(item, 1, 16)
  local head = call('HGET', K.heads, id)
  if not head then return false end
  local new_head, fence, lane, session = success_of(head, spack('>I8', NOW))
  if not new_head or fence ~= sub(item, 17) then return false end
  call('ZREM', K.leases[lane], item)
  call('SREM', session_set(session), item)
  call('HSET', K.heads, id, new_head)
  succeeded[1], succeeded_n = id, 1
  wake_for_slot()
  flush()
  return true
end

local function settle(item, id)
  local fence = (sunpack('>I8', item, 17))
  local outcome, after, random = O_SUCCEEDED, 0, 0
  if #item > PLAIN_BYTES then outcome, after, random = sunpack('>BI8d', item, OUTCOME_AT) end
  local job = job_of(id)
  if holds(job, fence) then
    change(job, false, settled, outcome, after, random, sub(item, TEXT_AT))
    return job[STATE]
  end
  if free_ghost(id, fence) then wake_for_slot() end
  if not job then return 0 end
  local again = job[SETTLED] == fence and job[OUTCOME] == outcome
  return again and job[STATE] or 10 + job[STATE]
end

-- Some of the items. Most jobs succeed, and are all alike then; the others are changed one by one. Answers whether all were
-- alike. `new_heads`: of what was settled since the last step().
local function settle_some(first, last, answers, new_heads)
  local ids, common, all_alike = {}, 0, true
  for i = first, last do ids[i - first + 1] = sub(ARGV[i], 1, 16) end
  local heads, successes, now = call('HMGET', K.heads, unpack(ids)), {}, spack('>I8', NOW)
  for i = 1, #ids do
    local item, id, head = ARGV[first + i - 1], ids[i], heads[i]
    local plain, success = #item == PLAIN_BYTES, false
    if head and jobs[id] == nil and not new_heads[id] and (plain or byte(item, OUTCOME_AT) == O_SUCCEEDED) then
      success = successes[head]
      if success == nil then
        success = common_success(head, now)
        successes[head] = success
      end
    end
    if success and sub(item, 17, PLAIN_BYTES) == success.fence then
      local member, new_head = plain and item or sub(item, 1, PLAIN_BYTES), success.start
      if not plain then new_head = new_head .. sub(item, TEXT_AT) end
      local leases, held, n = success.leases, success.held, #heads_put
      leases[#leases + 1], held[#held + 1] = member, member
      heads_put[n + 1], heads_put[n + 2], new_heads[id] = id, new_head, new_head
      succeeded[#succeeded + 1], answers[first + i - 2], common = id, SUCCEEDED, common + 1
    else
      head = new_heads[id] or head
      if head and jobs[id] == nil then known(id, head) end
      answers[first + i - 2], all_alike = settle(item, id), false
    end
  end
  if common > 0 then
    succeeded_n = succeeded_n + common
    wake_for_slot()
  end
  return all_alike
end

-- Of many that succeed at once only the last are kept: nothing is written of the others that would be trimmed at once.
local function drop_surplus()
  local surplus, slack = #succeeded - policy.keep_finished, floor(policy.keep_finished / 8)
  if surplus <= slack then return end
  -- Where more are kept than should be (the policy has changed) the oldest go first.
  if call('LLEN', K.history[SUCCEEDED]) - record[STALE + 2] > policy.keep_finished + slack then return end
  gone = {unpack(succeeded, 1, surplus)}
  succeeded, heads_put = {unpack(succeeded, surplus + 1)}, {unpack(heads_put, 2 * surplus + 1)}
end

made.settle = function()
  if #ARGV == 2 and settle_one(ARGV[2]) then return SETTLED_ONE end
  local answers, new_heads, all_alike = {}, {}, true
  for first = 2, #ARGV, LOAD_MAX do
    if not all_alike then
      step()
      new_heads, all_alike = {}, true
    end
    all_alike = settle_some(first, min(first + LOAD_MAX - 1, #ARGV), answers, new_heads)
  end
  if all_alike then drop_surplus() end
  flush()
  return string.char(unpack(answers))
end
