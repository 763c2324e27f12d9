#!lua flags=allow-oom
-- Begin a new epoch of a container's connection: it keeps the inputs it still runs, the rest goes back.
-- ARGV: container, fn, client id of the blocking connection, pid, seconds since its fork ('' unknown), 1 if it was a
-- spare, timeout of what it runs, ids it runs...
-- Returns the new epoch, or 0 when the container was given up or released and must leave.
local container, fn, record = ARGV[1], ARGV[2], P .. 'container:' .. ARGV[1]
local state = redis.call('HGET', record, 'state')
if state == 'gone' or state == 'released' then return 0 end
local old = epoch_of(container)
local epoch = redis.call('HINCRBY', record, 'epoch', 1)
local kept = P .. 'claims:' .. container .. ':' .. epoch
for e = old, math.max(1, old - 9), -1 do
  local claims = P .. 'claims:' .. container .. ':' .. e
  local transit = P .. 'transit:' .. container .. ':' .. e
  for i = 8, #ARGV do
    local message = redis.call('HGET', claims, ARGV[i])
    if message then
      redis.call('HSET', kept, ARGV[i], message)
      redis.call('HDEL', claims, ARGV[i])
    elseif is_taken(transit, ARGV[i]) then -- it has begun, and its claim was lost with the connection
      redis.call('HSET', kept, ARGV[i], redis.call('LPOP', transit))
      redis.call('HINCRBY', P .. 'attempts:' .. fn, ARGV[i], 1)
      redis.call('ZADD', P .. 'running:' .. fn, now() + tonumber(ARGV[7]), ARGV[i])
    end
  end
  give_back(fn, container, e, 'its container lost its connection', true)
end
redis.call('HSET', record, 'fn', fn, 'client', ARGV[3], 'pid', ARGV[4], 'state', 'ready')
if ARGV[5] ~= '' then redis.call('HSETNX', record, 'forked', string.format('%.6f', now() - tonumber(ARGV[5]))) end
if ARGV[6] == '1' then redis.call('HSETNX', record, 'spare', '1') end
redis.call('PERSIST', record)
redis.call('SADD', P .. 'containers:' .. fn, container)
local first = redis.call('HSETNX', record, 'ready', tostring(now())) == 1
local requested = first and tonumber(redis.call('HGET', record, 'requested') or nil)
if requested then
  local took = math.max(0, now() - requested)
  note_times(fn, 'start', {[bucket_of(took)] = 1}, took)
end
if first or redis.call('ZSCORE', P .. 'ready:' .. fn, container) == false then
  redis.call('ZADD', P .. 'ready:' .. fn, now(), container)
end
now_idle(fn, container, epoch)
ring(fn)
return epoch
