-- Check the limits and put one input on a function's queue, in one step: what submit.lua does for most calls, in less time.
-- ARGV: fn, most pending, most pending and running (0: any), spawned call to write down ('' for none), its message.
-- Returns {inputs accepted, pending before, running}; {-1, 0, 0} when the function takes none, see `admit`.
local fn, refused = admit(ARGV[1])
if refused then return refused end
local most, total, record = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local pending = pending_of(fn) + redis.call('ZCARD', P .. 'delayed:' .. fn)
local running = total > 0 and running_of(fn) or 0
if pending >= most or (total > 0 and pending + running >= total) then return {0, pending, running_of(fn)} end
redis.call('LPUSH', P .. 'queue:' .. fn, ARGV[5])
if record ~= '' then remember(record, fn, 1) end
ring_for(fn, pending + 1)
return {1, pending, running}
