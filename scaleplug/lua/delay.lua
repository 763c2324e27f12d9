-- Keep an input until it is due. ARGV: fn, most pending, due time, message. Returns {accepted, pending, running}.
local fn = ARGV[1]
local delayed = P .. 'delayed:' .. fn
local pending = redis.call('LLEN', P .. 'queue:' .. fn) + redis.call('ZCARD', delayed)
if pending >= tonumber(ARGV[2]) then return {0, pending, redis.call('ZCARD', P .. 'running:' .. fn)} end
put_off(fn, ARGV[3], ARGV[4])
return {1, pending, 0}
