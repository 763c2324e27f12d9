-- Check the limits and put inputs on a function's queue, in one step.
-- ARGV: fn, most pending, most pending and running (0: any), 1 to accept as many as fit, spawned call to write down
--       ('' for none), seconds to keep its results, inputs it had before, 1 if more are to come,
--       number of messages, the messages: a line each, or an argument each where they hold line ends.
-- Returns {accepted, pending before, running}.
local fn, most, total, partial = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local queue = P .. 'queue:' .. fn
local pending = redis.call('LLEN', queue) + redis.call('ZCARD', P .. 'delayed:' .. fn)
local running = redis.call('ZCARD', P .. 'running:' .. fn)
local n, packed = tonumber(ARGV[9]), nil
if n > 1 and #ARGV == 10 then packed = ARGV[10] end
local room = most - pending
if total > 0 then room = math.min(room, total - pending - running) end
if n > room then
  if not partial or room <= 0 then return {0, pending, running} end
  n = room
end
local messages, from = packed and {} or ARGV, packed and 1 or 10
if packed then
  local start = 1
  for i = 1, n do
    local stop = string.find(packed, '\n', start, true) or #packed + 1
    messages[i] = string.sub(packed, start, stop - 1)
    start = stop + 1
  end
end
for first = from, from + n - 1, 1000 do
  redis.call('LPUSH', queue, unpack(messages, first, math.min(first + 999, from + n - 1)))
end
if ARGV[5] ~= '' then remember(ARGV[5], fn, tonumber(ARGV[7]) + n, ARGV[8] == '1', tonumber(ARGV[6])) end
ring(fn)
return {n, pending, running}
