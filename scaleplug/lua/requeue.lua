#!lua flags=allow-oom
-- Put one claimed input back at the head of its queue, its attempt taken back. ARGV: container, epoch, fn, id.
local claims = P .. 'claims:' .. ARGV[1] .. ':' .. ARGV[2]
local message = redis.call('HGET', claims, ARGV[4])
if not message then return 0 end
redis.call('HDEL', claims, ARGV[4])
redis.call('ZREM', P .. 'running:' .. ARGV[3], ARGV[4])
redis.call('HINCRBY', P .. 'attempts:' .. ARGV[3], ARGV[4], -1)
redis.call('RPUSH', P .. 'queue:' .. ARGV[3], message)
local extra = extra_of(message)
count_packed(ARGV[3], 'running', -extra)
count_packed(ARGV[3], 'pending', extra)
ring(ARGV[3])
now_idle(ARGV[3], ARGV[1], ARGV[2])
return 1
