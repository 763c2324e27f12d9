#!lua flags=allow-oom
-- Claim the message a container has just taken. The attempt is counted here, before any of the user's code runs.
-- ARGV: container, epoch, fn, id, timeout, caller ('' if nobody waits), call, keep (seconds), index, version of the code
--       that the input asks for ('' for any), version of the container's.
-- Returns {'ok', attempt, verdict or '', crash or '', times retried}, or {'none' | 'stale' | 'parked' | 'cancelled' | 'outdated'}.
local container, epoch, fn, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local transit, caller, call = P .. 'transit:' .. container .. ':' .. epoch, ARGV[6], ARGV[7]
local function state(attempt)
  return {
    'ok',
    attempt,
    redis.call('HGET', P .. 'verdicts:' .. fn, id) or '',
    redis.call('HGET', P .. 'crashes:' .. fn, id) or '',
    tonumber(redis.call('HGET', P .. 'retries:' .. fn, id) or '0'),
  }
end
-- True for a message that certainly has another id: one of letters, digits and the like is in it as it is.
local function another(message)
  return string.find(id, '^[%w:+_.-]+$') and not string.find(message, '"id": "' .. id .. '"', 1, true) and
    not string.find(message, '"id":"' .. id .. '"', 1, true)
end
local message = redis.call('LINDEX', transit, 0)
local ours = redis.call('HGET', P .. 'claims:' .. container .. ':' .. epoch, id)
if ours and ours == message then -- its caller has sent it twice: it runs once
  redis.call('LPOP', transit)
  return {'none'}
elseif ours then
  -- The answer to an earlier try was lost on its way: what that claimed is still ours, and what is in transit is another's.
  return state(tonumber(redis.call('HGET', P .. 'attempts:' .. fn, id) or '1'))
elseif not message or another(message) then -- an earlier try has dealt with it
  return {'none'}
end
if epoch_of(container) ~= tonumber(epoch) then
  while true do -- several may have been taken at once
    local taken = redis.call('RPOP', transit)
    if not taken then break end
    redis.call('RPUSH', P .. 'queue:' .. fn, taken)
  end
  ring(fn)
  return {'stale'}
end
local extra = extra_of(message)
if call ~= '' and is_cancelled(call) then
  redis.call('LPOP', transit)
  forget(fn, id)
  count_packed(fn, 'pending', -extra)
  deliver(call, ARGV[9], caller, tonumber(ARGV[8]), nil, 'cancelled', nil, extra + 1)
  return {'cancelled'}
end
if caller ~= '' and redis.call('EXISTS', P .. 'caller:' .. caller) == 0 then
  redis.call('LPOP', transit)
  count_packed(fn, 'pending', -extra)
  park(fn, caller, message)
  return {'parked'}
end
-- Only the registered version is worth leaving for: two callers with different ones would send containers away for ever.
local asked = ARGV[10]
if asked ~= '' and asked ~= ARGV[11] and asked == redis.call('HGET', P .. 'versions', fn) and
  redis.call('HLEN', P .. 'claims:' .. container .. ':' .. epoch) == 0 then
  redis.call('LPOP', transit)
  redis.call('RPUSH', P .. 'queue:' .. fn, message)
  let_go(container, fn)
  ring(fn)
  return {'outdated'}
end
redis.call('HSET', P .. 'claims:' .. container .. ':' .. epoch, id, message)
redis.call('LPOP', transit)
count_packed(fn, 'pending', -extra)
count_packed(fn, 'running', extra)
redis.call('ZADD', P .. 'running:' .. fn, now() + tonumber(ARGV[5]), id)
redis.call('ZREM', P .. 'idle:' .. fn, container)
ring_for_rest(fn)
local begun = state(redis.call('HINCRBY', P .. 'attempts:' .. fn, id, 1))
local waited = begun[2] == 1 and begun[5] == 0 and wait_of(message)
if waited then note_times(fn, 'wait', {[bucket_of(waited)] = 1 + extra}, waited * (1 + extra)) end
return begun
