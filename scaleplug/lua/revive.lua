#!lua flags=allow-oom
-- Say that a calling process lives, and bring back the inputs that were parked while it seemed not to.
-- ARGV: caller, seconds to live, a random name. Returns {1 if it was known, inputs brought back, the name of this Redis}.
local key, parked = P .. 'caller:' .. ARGV[1], P .. 'parked:' .. ARGV[1]
local known = redis.call('EXISTS', key)
redis.call('SET', key, '1', 'EX', ARGV[2])
redis.call('EXPIRE', P .. 'inbox:' .. ARGV[1], 3600)
redis.call('SET', P .. 'incarnation', ARGV[3], 'NX')
local back = 0
while true do
  local fn = redis.call('LPOP', parked)
  if not fn then break end
  local message = redis.call('LPOP', parked)
  if not message then break end
  local id = string.match(message, '"id": "([^"]*)"')
  if id then redis.call('PERSIST', P .. 'argument:' .. id) end
  redis.call('RPUSH', P .. 'queue:' .. fn, message)
  count_packed(fn, 'pending', extra_of(message))
  ring(fn)
  back = back + 1
end
return {known, back, redis.call('GET', P .. 'incarnation')}
