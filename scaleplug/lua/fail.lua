-- Fail every pending input of a function whose containers can't be started. ARGV: token, fn, reason, most.
-- Only inputs whose caller waits are failed; what Celery's own calls sent stays. Returns the number failed.
if not leads(ARGV[1]) then return 0 end
local fn, failed, stay = ARGV[2], 0, {}
local queue = P .. 'queue:' .. fn
for _ = 1, tonumber(ARGV[4]) do
  local message = redis.call('RPOP', queue)
  if not message then break end
  local ok, parsed = pcall(cjson.decode, message)
  local reply = ok and type(parsed) == 'table' and type(parsed.headers) == 'table' and parsed.headers.scaleplug
  if type(reply) == 'table' and reply.call then
    local inputs = reply.pack or 1
    forget(fn, parsed.headers.id)
    count_packed(fn, 'pending', 1 - inputs)
    deliver(reply.call, reply.index, reply.caller, reply.keep, nil, 'start: ' .. ARGV[3], nil, inputs)
    failed = failed + inputs
  else
    stay[#stay + 1] = message
  end
end
for i = #stay, 1, -1 do redis.call('RPUSH', queue, stay[i]) end
return failed
