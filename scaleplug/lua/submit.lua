-- Check the limits and put inputs on a function's queue, in one step.
-- KEYS[1 + n]: the draft of the n-th message's large arguments, '' for none, as far as there are any.
-- ARGV: fn, most pending, most pending and running (0: any), 1 to accept as many as fit, call to record ('' for none; several,
--       with a space between them, are calls of one message each), seconds to keep the record, messages...
-- Returns {accepted, pending before, running}; {-1, 0, 0} when the function takes none, see `admit`.
local admitted, refused = admit(ARGV[1])
if refused then return refused end
ARGV[1] = admitted
local fn, most, total, partial = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local queue = P .. 'queue:' .. fn
local pending = redis.call('LLEN', queue) + redis.call('ZCARD', P .. 'delayed:' .. fn)
local running = redis.call('ZCARD', P .. 'running:' .. fn)
local n = #ARGV - 6
local room = most - pending
if total > 0 then room = math.min(room, total - pending - running) end
if n > room then
  if not partial or room <= 0 then return {0, pending, running} end
  n = room
end
local first = 7
while first < 7 + n do
  local last = math.min(first + 999, 6 + n)
  redis.call('LPUSH', queue, unpack(ARGV, first, last))
  first = last + 1
end
for i = 1, math.min(n, #KEYS - 1) do
  if KEYS[1 + i] ~= '' then accept(KEYS[1 + i]) end
end
local recorded = 0
for call in string.gmatch(ARGV[5], '%S+') do
  if recorded == n then break end
  redis.call('SET', P .. 'call:' .. call, fn, 'EX', ARGV[6])
  recorded = recorded + 1
end
ring(fn)
return {n, pending, running}
