#!lua flags=allow-oom
-- Remove retiring functions from the registry once nothing of any of them is left: until then one may call another.
-- ARGV: token, fn... Returns 1 when they are gone.
if not leads(ARGV[1]) then return 0 end
for i = 2, #ARGV do
  local fn = ARGV[i]
  if redis.call('SISMEMBER', P .. 'retiring', fn) == 0 then return 0 end
  if redis.call('EXISTS', P .. 'queue:' .. fn, P .. 'delayed:' .. fn, P .. 'running:' .. fn, P .. 'containers:' .. fn) > 0 then
    return 0
  end
end
for i = 2, #ARGV do
  local fn = ARGV[i]
  for _, hash in ipairs({'functions', 'versions', 'overrides', 'prepared', 'calm'}) do redis.call('HDEL', P .. hash, fn) end
  for _, set in ipairs({'retiring', 'unrung'}) do redis.call('SREM', P .. set, fn) end
  for _, kind in ipairs({'stats:', 'learned:', 'attempts:', 'verdicts:', 'crashes:', 'trouble:', 'packed:', 'times:', 'history:'}) do
    redis.call('DEL', P .. kind .. fn)
  end
  redis.call('EXPIRE', P .. 'decisions:' .. fn, 86400)
end
return 1
