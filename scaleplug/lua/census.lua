#!lua flags=allow-oom
-- Count, for people, what functions have. ARGV: fn... (every registered one if there is none).
-- Returns for each {fn, pending, delayed, running, starting, idle, busy, draining, finished, failed, refused}.
local fns = ARGV
if #fns == 0 then fns = redis.call('HKEYS', P .. 'functions') end
local out = {}
for i, fn in ipairs(fns) do
  local ready, idle = redis.call('ZCARD', P .. 'ready:' .. fn), redis.call('ZCARD', P .. 'idle:' .. fn)
  local starting, draining = 0, 0
  if redis.call('SCARD', P .. 'containers:' .. fn) > ready then
    for _, container in ipairs(redis.call('SMEMBERS', P .. 'containers:' .. fn)) do
      local state = redis.call('HGET', P .. 'container:' .. container, 'state')
      if state == 'starting' then starting = starting + 1 end
      if state == 'released' then draining = draining + 1 end
    end
  end
  local stats = redis.call('HMGET', P .. 'stats:' .. fn, 'finished', 'failed', 'refused')
  out[i] = {
    fn,
    pending_of(fn),
    redis.call('ZCARD', P .. 'delayed:' .. fn),
    running_of(fn),
    starting, idle, ready - idle, draining,
    stats[1] or '0', stats[2] or '0', stats[3] or '0',
  }
end
return out
