#!lua flags=allow-oom
-- A spawned call has all its inputs. ARGV: fn, call, inputs, keep (seconds).
local call = ARGV[2]
remember(call, ARGV[1], ARGV[3], false, tonumber(ARGV[4]))
redis.call('HDEL', P .. 'call:' .. call, 'open')
redis.call('PERSIST', P .. 'call:' .. call)
redis.call('PERSIST', P .. 'results:' .. call)
keep_large(call)
settle(call, tonumber(ARGV[4]))
return 1
