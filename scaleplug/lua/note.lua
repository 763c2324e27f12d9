#!lua flags=allow-oom
-- Keep for charts what functions have now, where that has changed. ARGV: token, most points to keep, then fn and the
-- desired containers of each. A point: time, pending, running, containers that start, idle, are busy and leave, desired.
-- Returns 1, or 0 when the lease is lost.
if not leads(ARGV[1]) then return 0 end
local stamp = string.format('%.2f ', now())
for i = 3, #ARGV, 2 do
  local key = P .. 'history:' .. ARGV[i]
  local pending, _, running, starting, idle, busy, draining = counts_of(ARGV[i])
  local point = table.concat({pending, running, starting, idle, busy, draining, ARGV[i + 1]}, ' ')
  local last = redis.call('LINDEX', key, 0)
  if not last or string.match(last, '^%S+ (.*)$') ~= point then
    redis.call('LPUSH', key, stamp .. point)
    redis.call('LTRIM', key, 0, ARGV[2] - 1)
    redis.call('EXPIRE', key, 172800)
  end
end
return 1
