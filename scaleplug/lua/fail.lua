#!lua flags=allow-oom
-- Fail every pending input of a function whose containers can't be started. ARGV: token, fn, reason, most.
-- Only inputs whose caller waits are failed; what Celery's own calls sent stays. Returns the number failed.
if not leads(ARGV[1]) then return 0 end
local fn, failed, stay = ARGV[2], 0, {}
local queue = P .. 'queue:' .. fn
for _ = 1, tonumber(ARGV[4]) do
  local message = redis.call('RPOP', queue)
  if not message then break end
  local reply, id = reply_in(message)
  if reply then
    forget(fn, id)
    count_packed(fn, 'pending', 1 - reply.inputs)
    deliver(reply.call, reply.index, reply.caller, reply.keep, nil, 'start: ' .. ARGV[3], nil, reply.inputs)
    failed = failed + reply.inputs
  else
    stay[#stay + 1] = message
  end
end
for i = #stay, 1, -1 do redis.call('RPUSH', queue, stay[i]) end
return failed
