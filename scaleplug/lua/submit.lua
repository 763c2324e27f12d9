-- Check the limits and put inputs on a function's queue, in one step.
-- ARGV: fn, most pending, most pending and running (0: any), 1 to accept as many as fit, spawned call to write down
--       ('' for none), seconds to keep its results, inputs it had before, 1 if more are to come, messages...
-- Returns {accepted, pending before, running}.
local fn, most, total, partial = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local queue = P .. 'queue:' .. fn
local pending = redis.call('LLEN', queue) + redis.call('ZCARD', P .. 'delayed:' .. fn)
local running = redis.call('ZCARD', P .. 'running:' .. fn)
local n = #ARGV - 8
local room = most - pending
if total > 0 then room = math.min(room, total - pending - running) end
if n > room then
  if not partial or room <= 0 then return {0, pending, running} end
  n = room
end
local first = 9
while first < 9 + n do
  local last = math.min(first + 999, 8 + n)
  redis.call('LPUSH', queue, unpack(ARGV, first, last))
  first = last + 1
end
if ARGV[5] ~= '' then remember(ARGV[5], fn, tonumber(ARGV[7]) + n, ARGV[8] == '1', tonumber(ARGV[6])) end
ring(fn)
return {n, pending, running}
