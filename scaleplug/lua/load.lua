#!lua flags=allow-oom
-- Read what the policy needs to know. ARGV: fn... Returns the time, then for each function {pending, running,
-- earliest end of a timeout or '', {idle container, since...}, {ready container, at...}, timed, microseconds,
-- earliest end of a cancelled input's grace or ''}.
local out = {tostring(now())}
for _, fn in ipairs(ARGV) do
  local stats = redis.call('HMGET', P .. 'stats:' .. fn, 'timed', 'microseconds')
  out[#out + 1] = {
    pending_of(fn),
    running_of(fn),
    redis.call('ZRANGE', P .. 'running:' .. fn, 0, 0, 'WITHSCORES')[2] or '',
    redis.call('ZRANGE', P .. 'idle:' .. fn, 0, -1, 'WITHSCORES'),
    redis.call('ZRANGE', P .. 'ready:' .. fn, 0, -1, 'WITHSCORES'),
    stats[1] or '0',
    stats[2] or '0',
    redis.call('ZRANGE', P .. 'cancelling:' .. fn, 0, 0, 'WITHSCORES')[2] or '',
  }
end
return out
