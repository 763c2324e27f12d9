-- Check the limits and put inputs on a function's queue, in one step.
-- KEYS[1 + n]: the draft of the n-th message's large arguments, '' for none, as far as there are any.
-- ARGV: fn, most pending, most pending and running (0: any), 1 to accept as many as fit, spawned call to write down
--       ('' for none; several, with a space between them, are calls of one message each), seconds to keep its results,
--       inputs it had before, 1 if more are to come,
--       number of messages (and, after a ':', how many inputs each holds, where some are packs), the messages: a line
--       each, or an argument each where they hold line ends.
-- Returns {inputs accepted, pending before, running}, and of a map {..., timed, microseconds, containers}, by which its
-- caller tells whether inputs are short; {-1, 0, 0} when the function takes none, see `admit`.
local admitted, refused = admit(ARGV[1])
if refused then return refused end
ARGV[1] = admitted
local fn, most, total, partial = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local queue = P .. 'queue:' .. fn
local pending = pending_of(fn) + redis.call('ZCARD', P .. 'delayed:' .. fn)
local counts, weights, packed = {string.match(ARGV[9], '^(%d+):?(.*)$')}, nil, nil
local n = tonumber(counts[1])
if counts[2] ~= '' then
  weights = {}
  for weight in string.gmatch(counts[2], '%d+') do weights[#weights + 1] = tonumber(weight) end
end
if n > 1 and #ARGV == 10 then packed = ARGV[10] end
local running = (total > 0 or partial) and running_of(fn) or 0
local room = most - pending
if total > 0 then room = math.min(room, total - pending - running) end
local function answer(accepted)
  if not partial or ARGV[5] ~= '' then return {accepted, pending, accepted == 0 and running_of(fn) or running} end
  local known = redis.call('HMGET', P .. 'stats:' .. fn, 'timed', 'microseconds')
  local containers = redis.call('SCARD', P .. 'containers:' .. fn)
  return {accepted, pending, running, tonumber(known[1] or '0'), tonumber(known[2] or '0'), containers}
end
local accepted = n
if weights then -- as many messages as fit whole
  local fit = 0
  accepted = 0
  while fit < n and accepted + weights[fit + 1] <= room do
    fit = fit + 1
    accepted = accepted + weights[fit]
  end
  n = fit
  if n == 0 then return answer(0) end
  count_packed(fn, 'pending', accepted - n)
elseif n > room then
  if not partial or room <= 0 then return answer(0) end
  n = room
  accepted = n
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
for i = 1, math.min(n, #KEYS - 1) do
  if KEYS[1 + i] ~= '' then accept(KEYS[1 + i]) end
end
local recorded, keep = 0, tonumber(ARGV[6])
if string.find(ARGV[5], ' ', 1, true) then
  for call in string.gmatch(ARGV[5], '%S+') do
    if recorded == n then break end
    remember(call, fn, 1, false, keep)
    recorded = recorded + 1
  end
elseif ARGV[5] ~= '' then
  remember(ARGV[5], fn, tonumber(ARGV[7]) + n, ARGV[8] == '1', keep)
end
ring_for(fn, pending + accepted)
return answer(accepted)
