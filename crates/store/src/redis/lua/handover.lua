-- flags:
-- Enters jobs for which somebody waits, and hands them out: a submit and a lease, one after the other.
--
-- KEYS[1], ARGV[1]  see lib.lua
-- ARGV[2]           the number of arguments of the submit beside the time; then these, then those of the lease
-- returns           {what the submit returns, what the lease returns or nil if it failed}

made.handover = function()
  local args, n = ARGV, tonumber(ARGV[2])
  parts.is_handover = true
  take(KEYS, {args[1], unpack(args, 3, 2 + n)})
  local submitted = made.submit()
  parts.just_entered = entering
  let_go()
  bytes_read = 0
  take(KEYS, {args[1], unpack(args, 3 + n)})
  -- What was entered stays entered, whatever stands at the head of the list.
  local is_leased, granted = pcall(made.lease)
  -- Bodies may be large: nothing keeps them until the next call.
  parts.just_entered = nil
  return {submitted, is_leased and granted or false}
end
