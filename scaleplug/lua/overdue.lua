#!lua flags=allow-oom
-- Find inputs that ran past their timeout, and pass the verdict on them. ARGV: token, fn, grace (seconds), verdict.
-- Returns the containers to be killed.
if not leads(ARGV[1]) then return {} end
local fn, found = ARGV[2], {}
local ids = redis.call('ZRANGEBYSCORE', P .. 'running:' .. fn, '-inf', now() - tonumber(ARGV[3]), 'LIMIT', 0, 100)
for _, id in ipairs(ids) do
  local owner
  for _, container in ipairs(redis.call('SMEMBERS', P .. 'containers:' .. fn)) do
    if redis.call('HEXISTS', P .. 'claims:' .. container .. ':' .. epoch_of(container), id) == 1 then owner = container end
  end
  if owner then
    redis.call('HSET', P .. 'verdicts:' .. fn, id, ARGV[4])
    found[#found + 1] = owner
  else
    redis.call('ZREM', P .. 'running:' .. fn, id)
  end
end
return found
