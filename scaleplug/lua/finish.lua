#!lua flags=allow-oom
-- Acknowledge an input and store its outcome, if this container still owns it: a late result of a frozen one changes nothing.
-- KEYS[2]: the draft of a large outcome, if it is one. ARGV: container, epoch, fn, id, microseconds ('' to leave the service time alone), 1 if it failed, call ('' when Celery stores the result), index,
--       caller, keep (seconds), outcome ('' for none).
-- Returns 1, or 0 when the container doesn't own the input any more.
local container, epoch, fn, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('HDEL', P .. 'claims:' .. container .. ':' .. epoch, id) == 0 then
  if KEYS[2] then redis.call('UNLINK', KEYS[2]) end
  return 0
end
forget(fn, id)
redis.call('HINCRBY', P .. 'stats:' .. fn, 'finished', 1)
count_time(fn, ARGV[5])
if ARGV[6] == '1' then redis.call('HINCRBY', P .. 'stats:' .. fn, 'failed', 1) end
-- One that is kept lives as long as what refers to it; the caller renews one that it has not read yet.
local keep, large = tonumber(ARGV[10]), nil
if KEYS[2] then large = accept(KEYS[2], keep == 0 and 3600 or nil) end
if ARGV[7] ~= '' and ARGV[11] ~= '' and not deliver(ARGV[7], ARGV[8], ARGV[9], keep, ARGV[11], nil, large) and large then
  redis.call('UNLINK', large)
end
now_idle(fn, container, epoch)
return 1
