#!lua flags=allow-oom
-- A container is gone (or leaves now): give back what it holds. ARGV: token ('' from the container itself), container,
-- fn, reason, 1 if its inputs are not to blame. Returns the number of inputs given back, -1 when the lease is lost.
if not leads(ARGV[1]) then return -1 end
local container, fn, record = ARGV[2], ARGV[3], P .. 'container:' .. ARGV[2]
local returned, last = 0, epoch_of(container)
for e = last, math.max(1, last - 9), -1 do
  returned = returned + give_back(fn, container, e, ARGV[4], ARGV[5] == '1')
end
redis.call('ZREM', P .. 'idle:' .. fn, container)
redis.call('ZREM', P .. 'ready:' .. fn, container)
redis.call('SREM', P .. 'containers:' .. fn, container)
redis.call('HSET', record, 'fn', fn, 'state', 'gone', 'reason', ARGV[4])
redis.call('HINCRBY', record, 'epoch', 1)
redis.call('EXPIRE', record, 3600)
redis.call('DEL', P .. 'control:' .. container)
local will = redis.call('GET', P .. 'will:' .. container)
if will then
  local topic, event = string.match(will, '^([^\n]+)\n(.*)$')
  -- Who leaves in good order has said so itself. The user of this Redis may have no right to; then it is not told.
  if topic and ARGV[1] ~= '' then redis.pcall('PUBLISH', topic, event) end
  redis.call('DEL', P .. 'will:' .. container)
end
return returned
