#!lua flags=allow-oom
-- Remove a retiring function from the registry once nothing of it is left. ARGV: token, fn. Returns 1 when it is gone.
if not leads(ARGV[1]) then return 0 end
local fn = ARGV[2]
if redis.call('SISMEMBER', P .. 'retiring', fn) == 0 then return 0 end
if redis.call('EXISTS', P .. 'queue:' .. fn, P .. 'delayed:' .. fn, P .. 'running:' .. fn, P .. 'containers:' .. fn) > 0 then
  return 0
end
local version = redis.call('HGET', P .. 'versions', fn) or ''
redis.call('HDEL', P .. 'code', fn .. '@' .. version)
for _, hash in ipairs({'functions', 'versions', 'overrides'}) do redis.call('HDEL', P .. hash, fn) end
redis.call('SREM', P .. 'retiring', fn)
for _, kind in ipairs({'stats:', 'learned:', 'attempts:', 'verdicts:', 'crashes:'}) do redis.call('DEL', P .. kind .. fn) end
redis.call('EXPIRE', P .. 'decisions:' .. fn, 86400)
return 1
