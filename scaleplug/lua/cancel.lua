#!lua flags=allow-oom
-- Cancel calls: their pending inputs vanish, their running ones are told, and have a while to end.
-- ARGV: fn, 1 to tell those who wait, keep, caller, grace (seconds), call...
-- Returns {pending inputs removed, running inputs told}.
local fn, queue, delayed = ARGV[1], P .. 'queue:' .. ARGV[1], P .. 'delayed:' .. ARGV[1]
local removed, told, keep, calls = 0, 0, ARGV[2] == '1' and tonumber(ARGV[3]) or 0, {}
for i = 6, #ARGV do
  local call = ARGV[i]
  calls[call] = true
  redis.call('SET', P .. 'cancelled:' .. call, '1', 'EX', 86400)
  -- A spawned call's record outlives that, if the call waits so long.
  if redis.call('EXISTS', P .. 'call:' .. call) == 1 then redis.call('HSET', P .. 'call:' .. call, 'cancelled', '1') end
end
local function drop(message)
  -- What its inputs have sent on may name a call too: only the header counts, which input_of finds.
  for call in string.gmatch(message, '"call": "([^"]*)"') do
    local index = calls[call] and input_of(message, call)
    if index then
      removed = removed + 1 + extra_of(message)
      drop_pending(fn, message, call, index, ARGV[4], keep)
      return true
    end
  end
  return false
end
-- Longer queues are not rewritten in one go: see drop.lua, and begin.lua drops what is left when it is taken.
if redis.call('LLEN', queue) <= 5000 then
  local left = {}
  for _, message in ipairs(redis.call('LRANGE', queue, 0, -1)) do
    if not drop(message) then left[#left + 1] = message end
  end
  if removed > 0 then
    redis.call('DEL', queue)
    for first = 1, #left, 1000 do redis.call('RPUSH', queue, unpack(left, first, math.min(first + 999, #left))) end
  end
end
if redis.call('ZCARD', delayed) <= 5000 then
  for _, message in ipairs(redis.call('ZRANGE', delayed, 0, -1)) do
    if drop(message) then redis.call('ZREM', delayed, message) end
  end
end
for _, container in ipairs(redis.call('SMEMBERS', P .. 'containers:' .. fn)) do
  local ids = {}
  for _, id in ipairs(redis.call('HKEYS', P .. 'claims:' .. container .. ':' .. epoch_of(container))) do
    if calls[id] or calls[call_of(id)] then
      ids[#ids + 1] = id
      redis.call('ZADD', P .. 'cancelling:' .. fn, 'NX', now() + tonumber(ARGV[5]), id)
      told = told + 1
    end
  end
  -- What is only being taken may have begun as well, see look.lua.
  local taken = redis.call('LRANGE', P .. 'transit:' .. container .. ':' .. epoch_of(container), 0, 0)[1]
  local id = taken and string.match(taken, '"id": "([^"]*)"')
  if id and (calls[id] or calls[call_of(id)]) then
    ids[#ids + 1] = id
    redis.call('ZADD', P .. 'cancelling:' .. fn, 'NX', now() + tonumber(ARGV[5]), id)
    told = told + 1
  end
  if #ids > 0 then -- one order for all: none is to begin because another one was interrupted first
    redis.call('RPUSH', P .. 'control:' .. container, 'cancel ' .. table.concat(ids, '\n'))
    redis.call('EXPIRE', P .. 'control:' .. container, 60)
  end
end
ring(fn)
return {removed, told}
