#!lua flags=allow-oom
-- Let a function that nobody uses retire, unless something of it is left. ARGV: token, fn. Returns 1 when it retires.
if not leads(ARGV[1]) then return 0 end
local fn = ARGV[2]
if redis.call('EXISTS', P .. 'queue:' .. fn, P .. 'delayed:' .. fn, P .. 'running:' .. fn, P .. 'containers:' .. fn) > 0 or
  redis.call('HEXISTS', P .. 'overrides', fn) == 1 then return 0 end
redis.call('SADD', P .. 'retiring', fn)
return 1
