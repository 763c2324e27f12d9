#!lua flags=allow-oom
-- Claim the message a container has just taken. The attempt is counted here, before any of the user's code runs.
-- ARGV: container, epoch, fn, id, timeout, caller ('' if nobody waits), call, keep (seconds), index.
-- Returns {'ok', attempt, verdict or '', crash or ''}, or {'none' | 'stale' | 'parked' | 'cancelled'}.
local container, epoch, fn, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local transit, caller, call = P .. 'transit:' .. container .. ':' .. epoch, ARGV[6], ARGV[7]
local message = redis.call('LINDEX', transit, 0)
if not message then
  -- The reply to an earlier try may have been lost on its way: what it claimed is still ours.
  if redis.call('HEXISTS', P .. 'claims:' .. container .. ':' .. epoch, id) == 0 then return {'none'} end
  return {
    'ok',
    tonumber(redis.call('HGET', P .. 'attempts:' .. fn, id) or '1'),
    redis.call('HGET', P .. 'verdicts:' .. fn, id) or '',
    redis.call('HGET', P .. 'crashes:' .. fn, id) or '',
  }
end
if epoch_of(container) ~= tonumber(epoch) then
  redis.call('DEL', transit)
  redis.call('RPUSH', P .. 'queue:' .. fn, message)
  ring(fn)
  return {'stale'}
end
if call ~= '' and is_cancelled(call) then
  redis.call('LPOP', transit)
  forget(fn, id)
  deliver(call, ARGV[9], caller, tonumber(ARGV[8]), nil, 'cancelled')
  return {'cancelled'}
end
if caller ~= '' and redis.call('EXISTS', P .. 'caller:' .. caller) == 0 then
  redis.call('LPOP', transit)
  redis.call('RPUSH', P .. 'parked:' .. caller, fn, message)
  redis.call('EXPIRE', P .. 'parked:' .. caller, 86400)
  return {'parked'}
end
redis.call('HSET', P .. 'claims:' .. container .. ':' .. epoch, id, message)
redis.call('LPOP', transit)
redis.call('ZADD', P .. 'running:' .. fn, now() + tonumber(ARGV[5]), id)
redis.call('ZREM', P .. 'idle:' .. fn, container)
local attempt = redis.call('HINCRBY', P .. 'attempts:' .. fn, id, 1)
return {'ok', attempt, redis.call('HGET', P .. 'verdicts:' .. fn, id) or '', redis.call('HGET', P .. 'crashes:' .. fn, id) or ''}
