-- flags: allow-oom
-- Hands out ready jobs under the caps; sets the hungry flag when a request is not met in full.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2]           grants in this call at most
-- ARGV[3]           the time after which nobody waits for the answer, or empty: then nothing is granted
-- ARGV[4]           digest of the policy that the caller knows, or empty
-- ARGV[5..]         of each want: session and incarnation (16 bytes each) in one text, jobs at most
-- returns           {1 = unmet, time, policy (empty: none) or nil if it is the known one, of each grant which want and which
--                   head (from 0, 2 bytes each) in one text, their ids in one text, the number of heads, these, then of
--                   each grant its body}

-- Jobs that run at most: in all, and of them retries. Without a cap record a queue that costs a resource has none.
local function caps()
  if record[PAUSED] == 1 then return 0, 0 end
  if not cap_text then
    if policy.costs == 1 then return 0, 0 end
    return math.huge, math.huge
  end
  local stored = numbers(cap_text)
  local cap, retry_cap, safe, expires = stored[1], stored[2], stored[3], stored[4]
  if expires ~= 0 and NOW >= expires then
    cap = min(cap, safe)
    return cap, cap
  end
  return cap, min(max(retry_cap, 1), cap)
end

local cap, retry_cap
-- Those in use, by lane.
local slots = {}
-- Of each want: session, incarnation, room left, and the heads that its jobs get. Dealt one at a time, in turns.
local wants, next_want
local until_text
-- What is granted: in which order (bytes of the answer's text), ids, bodies; heads, and the place of each. And whether that
-- is all there was.
local given, are_all
local is_whole = parts.is_whole

local function wanted_in_all()
  local wanted = 0
  for i = 6, #ARGV, 2 do wanted = wanted + tonumber(ARGV[i]) end
  return wanted
end

local function deal()
  given, wants, next_want = {order = {}, ids = {}, bodies = {}, heads = {}, place_of = {}}, {}, 1
  for i = 5, #ARGV, 2 do
    local session = sub(ARGV[i], 1, 16)
    wants[#wants + 1] = {
      ids = ARGV[i], session = session, incarnation = sub(ARGV[i], 17, 32), room = tonumber(ARGV[i + 1]),
      leases = members_of(set_add, session_set(session)), at = #wants,
    }
  end
end

local function take_want()
  if #wants == 1 then return wants[1] end
  while wants[next_want].room == 0 do next_want = next_want % #wants + 1 end
  local want = wants[next_want]
  want.room, next_want = want.room - 1, next_want % #wants + 1
  return want
end

local function grant(want, id, head, body)
  local order, heads, at, place, n = given.order, given.heads, want.at, given.place_of[head], #given.ids
  if not place then
    place = #heads
    heads[place + 1], given.place_of[head] = head, place
  end
  local m = 4 * n
  order[m + 1], order[m + 2], order[m + 3], order[m + 4] = floor(at / 256), at % 256, floor(place / 256), place % 256
  given.ids[n + 1], given.bodies[n + 1] = id, body
end

local function told(answer)
  if not given then
    answer[4], answer[5], answer[6] = answer[4] or '', answer[5] or '', answer[6] or 0
    return answer
  end
  local heads, bodies = given.heads, given.bodies
  local n = #heads
  answer[4], answer[5], answer[6] = string.char(unpack(given.order)), table.concat(given.ids), n
  for i = 1, n do answer[6 + i] = heads[i] end
  for i = 1, #bodies do answer[6 + n + i] = bodies[i] end
  -- Bodies may be large: nothing keeps them until the next call.
  given = nil
  return answer
end

-- What jobs without a head come to alike: the same fence, and for each want the same head. It is put together from its
-- parts, in the order of HEAD; `zeros`: reason to releases; numbers from SEQ to SETTLED; blamed and length of the error.
local head_of, leased_head
do
local RUNNING_START = string.char(FORMAT_VERSION, RUNNING, 0)
local zeros, zeros_seq, zeros_blamed = ('\0'):rep(14), ('\0'):rep(48), ('\0'):rep(20)
-- `ids`: session and incarnation.
function leased_head(body, fence, ids)
  return RUNNING_START .. string.char(flags_of(body)) .. zeros .. fence .. zeros_seq
    .. sub(body, KEY_END_AT, KEY_END_AT + 3) .. ids .. zeros_blamed
end

function head_of(want, body, fence)
  local kind = sub(body, KEY_END_AT, FLAGS_AT)
  -- Neighbours are mostly alike.
  if want.kind ~= kind then want.kind, want.head = kind, leased_head(body, fence, want.ids) end
  return want.head
end
end

-- The only job there is, or that is wanted: most calls, where there is little to do. The same as below, without the lists
-- that many jobs need. Answers whether it could be leased that way.
local function lease_single(id, answer)
  if #id ~= 16 or record[USED] ~= 0 then return false end
  local body = parts.just_entered and parts.just_entered[id] or call('HGET', K.bodies, id)
  if not is_whole(body) then return false end
  local at = 5
  while tonumber(ARGV[at + 1]) == 0 do at = at + 2 end
  local ids, fence = ARGV[at], spack('>I8', max(1, NOW))
  local head, entry = leased_head(body, fence, ids), id .. fence
  call('HSET', K.heads, id, head)
  call('ZADD', K.leases[0], until_text, entry)
  call('SADD', session_set(sub(ids, 1, 16)), entry)
  call('LPOP', K.ready[0])
  answer[4], answer[5], answer[6], answer[7], answer[8] = sub(spack('>I4I2', (at - 5) / 2, 0), 3), id, 1, head, body
  return true
end

-- The beginning of the first lane, as far as jobs without a head stand there; many at a time. Answers how many it dealt.
-- It is the first that a call does.
local function lease_fresh(most, answer)
  local entries = call('LRANGE', K.ready[0], 0, most - 1)
  are_all = #entries == 0 and record[USED] == 0
  if #entries == 1 and lease_single(entries[1], answer) then
    are_all = most > 1
    slots[0] = slots[0] + 1
    return 1
  end
  local n = 0
  while n < #entries and #entries[n + 1] == 16 do n = n + 1 end
  if n == 0 then return 0 end
  deal()
  local fence, leases, dealt, looked = spack('>I8', max(1, NOW)), members_of(sorted_add, K.leases[0]), 0, 0
  while looked < n do
    -- Few at first: payloads may be large.
    local ids = {unpack(entries, looked + 1, min(looked + (looked == 0 and READ_MIN or LOAD_MAX), n))}
    local bodies = read_bodies(ids)
    for i = 1, #ids do
      local id, body = ids[i], bodies[i]
      if is_whole(body) then
        local want = take_want()
        local head, entry, at = head_of(want, body, fence), id .. fence, 2 * dealt
        heads_put[at + 1], heads_put[at + 2], leases[at + 1], leases[at + 2] = id, head, until_text, entry
        local held = want.leases
        held[#held + 1] = entry
        grant(want, id, head, body)
        dealt = dealt + 1
      else
        -- Reading it sets it aside; its entry goes with the others.
        job_of(id)
        add_to(STALE, -1)
      end
    end
    looked = looked + #ids
    if bytes_read > BYTES_MAX then
      tired = true
      break
    end
  end
  call('LTRIM', K.ready[0], looked, -1)
  are_all = record[USED] == 0 and looked == #entries and looked < most
  slots[0] = slots[0] + dealt
  return dealt
end

-- The next job that may be leased: the lanes take turns, and one that is empty or full passes.
local function take_ready(ahead)
  while slots[0] + slots[1] < cap do
    local lane = record[TURN]
    local job = (lane == 0 or slots[1] < retry_cap) and next_ready(lane, ahead)
    if not job then
      lane = 1 - lane
      job = (lane == 0 or slots[1] < retry_cap) and next_ready(lane, ahead)
    end
    if not job then return nil end
    pop(lane)
    if past_deadline(job) then
      change(job, false, expired)
    elseif body_of(job) and job.broken then
      parts.set_aside(job, job.head, job.kept)
    else
      slots[lane] = slots[lane] + 1
      return job
    end
  end
end

local function lease_one(ahead)
  local job = take_ready(ahead)
  if not job then return false end
  if not given then deal() end
  local want, other = take_want(), 1 - job[LANE]
  change(job, false, leased, want.session, want.incarnation, until_text)
  job.encoded = encode(job)
  grant(want, job.id, job.encoded, body_of(job))
  -- Only who has something to offer gets a turn.
  if ready_left(other) > 0 then set(TURN, other) end
  return true
end

made.lease = function()
  create()
  reset_ready()
  cap, retry_cap = caps()
  local wanted = wanted_in_all()
  until_text = as_text(NOW + policy.lease_ttl_ms)
  local is_known = tonumber(ARGV[4]) == policy.digest
  local answer = {0, NOW, not is_known and (call('HGET', K.meta, 'policy') or '')}
  given, are_all = nil, false
  local granted, most = 0, min(wanted, tonumber(ARGV[2]))
  -- A server that stalled works off what its callers have given up on: such jobs would run with nobody.
  if NOW > (tonumber(ARGV[3]) or math.huge) then most = 0 end
  if most > 0 and cap > 0 then
    slots[0], slots[1] = slot_count(0), slot_count(1)
    if ready_count(1) == 0 and record[STALE] == 0 then
      local room = min(most, cap - slots[0] - slots[1])
      if room > 0 then granted = lease_fresh(room, answer) end
    end
    while granted < most and not (tired or are_all) and lease_one(most - granted) do granted = granted + 1 end
  end
  if granted < wanted then
    answer[1] = 1
    set(HUNGRY, (are_all or ready_left(0) + ready_left(1) <= 0) and FOR_A_JOB or FOR_ANYTHING)
    -- There is more, only not in this call.
    if tired or (parts.is_handover and most == 0) then wake() end
  elseif parts.is_handover and record[HUNGRY] ~= 0 and ready_left(0) + ready_left(1) > 0 then
    -- Whom the submit has not woken.
    wake()
  end
  trim_lists()
  flush()
  return told(answer)
end
