-- Keep an input until it is due. KEYS[2]: the draft of its large arguments, if it has any.
-- ARGV: fn, most pending, due time, message. Returns {accepted, pending, running}.
local admitted, refused = admit(ARGV[1])
if refused then return refused end
ARGV[1] = admitted
local fn = ARGV[1]
local delayed = P .. 'delayed:' .. fn
local pending = pending_of(fn) + redis.call('ZCARD', delayed)
if pending >= tonumber(ARGV[2]) then return {0, pending, running_of(fn)} end
put_off(fn, ARGV[3], ARGV[4])
if KEYS[2] then accept(KEYS[2]) end
return {1, pending, 0}
