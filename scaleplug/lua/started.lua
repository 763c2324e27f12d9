#!lua flags=allow-oom
-- Write down containers before they are started, while the controller leads. ARGV: token, then for each: container, fn,
-- slot, backend, host, unix time, version. Returns 1, or 0 when the lease is lost.
if not leads(ARGV[1]) then return 0 end
for i = 2, #ARGV, 7 do
  redis.call('HSET', P .. 'container:' .. ARGV[i], 'fn', ARGV[i + 1], 'slot', ARGV[i + 2], 'backend', ARGV[i + 3],
    'host', ARGV[i + 4], 'requested', ARGV[i + 5], 'version', ARGV[i + 6], 'state', 'starting')
  redis.call('SADD', P .. 'containers:' .. ARGV[i + 1], ARGV[i])
  redis.call('HINCRBY', P .. 'stats:' .. ARGV[i + 1], 'starts', 1)
end
return 1
