#!lua flags=allow-oom
-- Move inputs that are due to their queues. ARGV: most to move. Returns {seconds until the next one or '', fn...}.
local t, moved = now(), {}
for _, fn in ipairs(redis.call('ZRANGEBYSCORE', P .. 'due', '-inf', t)) do
  local delayed = P .. 'delayed:' .. fn
  for _, message in ipairs(redis.call('ZRANGEBYSCORE', delayed, '-inf', t, 'LIMIT', 0, ARGV[1])) do
    redis.call('LPUSH', P .. 'queue:' .. fn, message)
    redis.call('ZREM', delayed, message)
  end
  local first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  if first[2] then redis.call('ZADD', P .. 'due', first[2], fn) else redis.call('ZREM', P .. 'due', fn) end
  moved[#moved + 1] = fn
end
local next = redis.call('ZRANGE', P .. 'due', 0, 0, 'WITHSCORES')[2]
return {next and tostring(math.max(0, tonumber(next) - t)) or '', unpack(moved)}
