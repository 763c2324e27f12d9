#!lua flags=allow-oom
-- Claim the message that a container has just taken and begins to run: look.lua has found nothing against it. What has
-- come between is for others to act on: who cancels tells the container, who gives it up takes the message.
-- ARGV: container, epoch, fn, id, timeout. Returns 1, 0 if it isn't there.
local container, epoch, fn, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local transit = P .. 'transit:' .. container .. ':' .. epoch
local message = is_taken(transit, id)
if not message or epoch_of(container) ~= tonumber(epoch) then return 0 end
redis.call('HSET', P .. 'claims:' .. container .. ':' .. epoch, id, message)
redis.call('LPOP', transit)
redis.call('ZADD', P .. 'running:' .. fn, now() + tonumber(ARGV[5]), id)
redis.call('ZREM', P .. 'idle:' .. fn, container)
redis.call('HINCRBY', P .. 'attempts:' .. fn, id, 1)
ring_for_rest(fn)
local waited = wait_of(message)
if waited then note_times(fn, 'wait', {[bucket_of(waited)] = 1}, waited) end
return 1
