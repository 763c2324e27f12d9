#!lua flags=allow-oom
-- Set aside the inputs at the head of a queue whose caller is gone, as begin.lua would: no container has to be started
-- only for that. ARGV: token, fn, most. Returns how many were set aside.
if not leads(ARGV[1]) then return 0 end
local fn, queue, gone, parked = ARGV[2], P .. 'queue:' .. ARGV[2], {}, 0
for _ = 1, tonumber(ARGV[3]) do
  local message = redis.call('LINDEX', queue, -1)
  -- As json.dumps writes the header, which follows these two; spawned calls and Celery's own name no caller.
  local caller = message and string.match(message, '"call": "[^"]*", "index": %d+, "caller": "([^"]+)"')
  if not caller then break end
  if gone[caller] == nil then gone[caller] = redis.call('EXISTS', P .. 'caller:' .. caller) == 0 end
  if not gone[caller] then break end
  redis.call('RPOP', queue)
  count_packed(fn, 'pending', -extra_of(message))
  park(fn, caller, message)
  parked = parked + 1
end
return parked
