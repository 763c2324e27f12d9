#!lua flags=allow-oom
-- Put a failed input off: it waits until it is due, needs no container meanwhile, and has all its attempts again.
-- ARGV: container, epoch, fn, id, delay (seconds, 0 for at once), microseconds ('' to leave the service time alone),
--       call ('' when Celery stores the result), index, caller, keep (seconds).
-- Returns 1, or 0 when the container doesn't own the input any more.
local container, epoch, fn, id, call = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[7]
local claims = P .. 'claims:' .. container .. ':' .. epoch
local message = redis.call('HGET', claims, id)
if not message then return 0 end
redis.call('HDEL', claims, id)
count_time(fn, ARGV[6])
if call ~= '' and is_cancelled(call) then
  forget(fn, id)
  deliver(call, ARGV[8], ARGV[9], tonumber(ARGV[10]), nil, 'cancelled')
else
  redis.call('ZREM', P .. 'running:' .. fn, id)
  for _, kind in ipairs({'attempts:', 'verdicts:', 'crashes:'}) do redis.call('HDEL', P .. kind .. fn, id) end
  redis.call('HINCRBY', P .. 'retries:' .. fn, id, 1)
  redis.call('HINCRBY', P .. 'stats:' .. fn, 'retried', 1)
  if tonumber(ARGV[5]) > 0 then
    put_off(fn, now() + tonumber(ARGV[5]), message)
  else
    redis.call('LPUSH', P .. 'queue:' .. fn, message)
    ring(fn)
  end
end
now_idle(fn, container, epoch)
return 1
