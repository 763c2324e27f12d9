#!lua flags=allow-oom
-- Find inputs that ran past their timeout, and pass the verdict on them; and cancelled ones that have not ended in time.
-- ARGV: token, fn, grace of a timeout (seconds), verdict. Returns {container to be killed, why (the verdict or 'cancel')...}.
if not leads(ARGV[1]) then return {} end
local fn, found = ARGV[2], {}

local function owner_of(id)
  for _, container in ipairs(redis.call('SMEMBERS', P .. 'containers:' .. fn)) do
    if redis.call('HEXISTS', P .. 'claims:' .. container .. ':' .. epoch_of(container), id) == 1 then return container end
  end
end

local function find(key, before, why)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', before, 'LIMIT', 0, 100)) do
    local owner = owner_of(id)
    if owner then
      -- Where inputs run one after the other, and others wait behind the one that runs, nobody knows which that is: they
      -- run again, each alone.
      local alone = redis.call('HEXISTS', P .. 'container:' .. owner, 'serial') == 0 or
        redis.call('HLEN', P .. 'claims:' .. owner .. ':' .. epoch_of(owner)) == 1
      if why ~= 'cancel' and alone then redis.call('HSET', P .. 'verdicts:' .. fn, id, why) end
      found[#found + 1] = owner
      found[#found + 1] = why
    else
      redis.call('ZREM', key, id)
    end
  end
end

find(P .. 'running:' .. fn, now() - tonumber(ARGV[3]), ARGV[4])
find(P .. 'cancelling:' .. fn, now(), 'cancel')
return found
