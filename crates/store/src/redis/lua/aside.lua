-- Jobs that cannot be read. One that is met is set aside: dead from now on, with a reason of its own, so that it is listed,
-- counted and deleted like other dead ones and holds up nobody. The bytes that could not be read are kept as they were.

do

local UNREADABLE = 6
parts.UNREADABLE = UNREADABLE

-- Of this call: {id, head and body as they were, the body that is kept instead}; and ids whose bytes go.
local bytes_gone = {}
parts.aside = {}

local function made_unreadable(job)
  job[FENCE] = max(job[FENCE] + 1, NOW)
  job[STATE], job[REASON], job[FINISHED], job[BLAMED] = DEAD, UNREADABLE, NOW, NOBODY
  -- Whether somebody waits for it may be unknown: if so, he is told.
  job[FLAGS] = job[FLAGS] - job[FLAGS] % 2 + WANT_RESULT
  job.error = 'what is stored of this job cannot be read; the bytes are kept in ' .. K.unreadable
  job.result = ''
end

-- `head`, `body`: as they are stored, nil where there is none. `is_forced`: only the caller cannot read it, and not even the
-- body is taken for whole.
function parts.set_aside(job, head, body, is_forced)
  local id, is_whole = job.id, parts.is_whole(body)
  local kept = {id = id, head = head or '', body = ''}
  if is_forced or not is_whole then kept.body, kept.instead = body or '', parts.empty_body() end
  parts.aside[#parts.aside + 1] = kept
  job.aside, job.body = true, is_whole and body or kept.instead
  if not is_whole then job[KEY_END] = 0 end
  -- In which of these it was only its head knew. An entry of a ready list stays until somebody meets it.
  put(sorted_remove, K.scheduled, id)
  put(sorted_remove, K.deadlines, id)
  for state = SUCCEEDED, EXPIRED do
    if state ~= SUCCEEDED then put(sorted_remove, K.history[state], id) end
    put(sorted_remove, K.awaited[state], id)
  end
  change(job, false, made_unreadable)
end

-- An unreadable job is deleted.
function parts.forget_bytes(job) bytes_gone[#bytes_gone + 1] = job.id end

function parts.forget_aside()
  if #parts.aside > 0 then parts.aside = {} end
  if #bytes_gone > 0 then bytes_gone = {} end
end

function parts.flush_aside()
  for _, kept in ipairs(parts.aside) do
    -- Damaged a second time: what was written once is worth more.
    call('HSETNX', K.unreadable, kept.id, spack('>I4', #kept.head) .. kept.head .. kept.body)
    if kept.instead then call('HSET', K.bodies, kept.id, kept.instead) end
    call('LREM', K.history[SUCCEEDED], 0, kept.id)
  end
  in_pieces('HDEL', K.unreadable, bytes_gone)
end

end
