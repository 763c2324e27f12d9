-- Cancel a call: its pending inputs vanish, its running ones are told, and have a while to end.
-- ARGV: fn, call, 1 to tell those who wait, keep, caller, grace (seconds).
-- Returns {pending inputs removed, running inputs told}.
local fn, call, queue, delayed = ARGV[1], ARGV[2], P .. 'queue:' .. ARGV[1], P .. 'delayed:' .. ARGV[1]
redis.call('SET', P .. 'cancelled:' .. call, '1', 'EX', 86400)
-- As json.dumps writes the header: a call's id alone also stands in what its inputs have sent on.
local removed, told, mark = 0, 0, '"call": "' .. call .. '"'
local function drop(message)
  if not string.find(message, mark, 1, true) then return false end
  removed = removed + 1
  local id = string.match(message, '"id": "([^"]*)"')
  if id then forget(fn, id) end
  return true
end
-- Longer queues are not rewritten in one go: begin.lua drops what is left when it is taken.
if redis.call('LLEN', queue) <= 5000 then
  local keep = {}
  for _, message in ipairs(redis.call('LRANGE', queue, 0, -1)) do
    if not drop(message) then keep[#keep + 1] = message end
  end
  if removed > 0 then
    redis.call('DEL', queue)
    for first = 1, #keep, 1000 do redis.call('RPUSH', queue, unpack(keep, first, math.min(first + 999, #keep))) end
  end
end
if redis.call('ZCARD', delayed) <= 5000 then
  for _, message in ipairs(redis.call('ZRANGE', delayed, 0, -1)) do
    if drop(message) then redis.call('ZREM', delayed, message) end
  end
end
for _, container in ipairs(redis.call('SMEMBERS', P .. 'containers:' .. fn)) do
  for _, id in ipairs(redis.call('HKEYS', P .. 'claims:' .. container .. ':' .. epoch_of(container))) do
    if id == call or string.sub(id, 1, #call + 1) == call .. ':' then
      redis.call('RPUSH', P .. 'control:' .. container, 'cancel ' .. id)
      redis.call('EXPIRE', P .. 'control:' .. container, 60)
      redis.call('ZADD', P .. 'cancelling:' .. fn, 'NX', now() + tonumber(ARGV[6]), id)
      told = told + 1
    end
  end
end
if ARGV[3] == '1' and told == 0 and redis.call('EXISTS', P .. 'result:' .. call) == 0 then
  deliver(call, 0, ARGV[5], tonumber(ARGV[4]), nil, 'cancelled')
end
ring(fn)
return {removed, told}
