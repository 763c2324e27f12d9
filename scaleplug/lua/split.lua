#!lua flags=allow-oom
-- Take a pack apart that a container holds: hand back the inputs of it that have ended, claim the one that runs by its own
-- id, and put the others at the head of the queue.
-- ARGV: container, epoch, fn, id of the pack, inputs that have ended, microseconds they took, how many failed, call, index,
--       caller, their outcomes ('' for none), id of the one that runs ('' for none), its message, seconds left of its
--       timeout, then for each of the others: id, attempts it has had, how its container died ('' if none did), message.
-- Returns 1, or 0 when the container doesn't own the pack any more.
local container, epoch, fn, pack, call = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[8]
local claims = P .. 'claims:' .. container .. ':' .. epoch
local message = redis.call('HGET', claims, pack)
if not message then
  -- The answer to an earlier try may have been lost on its way: then the one that runs is this container's by its own id.
  return ARGV[12] ~= '' and redis.call('HEXISTS', claims, ARGV[12]) or 0
end
local attempt = redis.call('HGET', P .. 'attempts:' .. fn, pack) or '1'
local cancelled_until = redis.call('ZSCORE', P .. 'cancelling:' .. fn, pack)
redis.call('HDEL', claims, pack)
count_packed(fn, 'running', -extra_of(message))
forget(fn, pack)
if tonumber(ARGV[5]) > 0 then
  redis.call('HINCRBY', P .. 'stats:' .. fn, 'finished', ARGV[5])
  count_time(fn, ARGV[6], ARGV[5])
  if tonumber(ARGV[7]) > 0 then redis.call('HINCRBY', P .. 'stats:' .. fn, 'failed', ARGV[7]) end
  deliver(call, ARGV[9], ARGV[10], 0, ARGV[11])
end
if ARGV[12] ~= '' then
  redis.call('HSET', claims, ARGV[12], ARGV[13])
  redis.call('HSET', P .. 'attempts:' .. fn, ARGV[12], attempt)
  redis.call('ZADD', P .. 'running:' .. fn, now() + tonumber(ARGV[14]), ARGV[12])
end
if not is_cancelled(call) then
  for at = #ARGV - 3, 15, -4 do
    if tonumber(ARGV[at + 1]) > 0 then redis.call('HSET', P .. 'attempts:' .. fn, ARGV[at], ARGV[at + 1]) end
    if ARGV[at + 2] ~= '' then redis.call('HSET', P .. 'crashes:' .. fn, ARGV[at], ARGV[at + 2]) end
    redis.call('RPUSH', P .. 'queue:' .. fn, ARGV[at + 3])
    count_packed(fn, 'pending', extra_of(ARGV[at + 3]))
  end
  if #ARGV >= 15 then ring(fn) end
end
if ARGV[12] ~= '' and cancelled_until then
  -- The order to cancel the pack named the pack.
  redis.call('RPUSH', P .. 'control:' .. container, 'cancel ' .. ARGV[12])
  redis.call('ZADD', P .. 'cancelling:' .. fn, cancelled_until, ARGV[12])
  redis.call('EXPIRE', P .. 'control:' .. container, 60)
end
now_idle(fn, container, epoch)
return 1
