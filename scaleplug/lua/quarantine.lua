#!lua flags=allow-oom
-- Set aside the message a container has just taken and can't use. ARGV: container, epoch, fn, reason, caller,
-- call, index, keep of the one who may wait for it (from the message's own, unverified headers).
local fn = ARGV[3]
local message = redis.call('LPOP', P .. 'transit:' .. ARGV[1] .. ':' .. ARGV[2])
if not message then return 0 end
local id = string.match(message, '"id": "([^"]*)"')
if id then redis.call('UNLINK', P .. 'argument:' .. id) end
local extra = extra_of(message)
count_packed(fn, 'pending', -extra)
local list = P .. 'quarantine:' .. fn
redis.call('LPUSH', list, cjson.encode({reason = ARGV[4], at = now(), container = ARGV[1], bytes = #message}), message)
redis.call('LTRIM', list, 0, 1999)
redis.call('HINCRBY', P .. 'stats:' .. fn, 'refused', 1)
if ARGV[6] ~= '' then deliver(ARGV[6], ARGV[7], ARGV[5], tonumber(ARGV[8]), nil, 'refused: ' .. ARGV[4], nil, extra + 1) end
return 1
