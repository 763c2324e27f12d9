#!lua flags=allow-oom
-- Find inputs that this Redis doesn't hold: after a restart it may be without what it had accepted last.
-- ARGV: fn, caller, id... Returns the ids that are neither pending nor running nor set aside.
local fn, known, out = ARGV[1], {}, {}
local function add(id)
  known[id] = true
  local call, first, inputs = string.match(id, '^(.*):(%d+)%+(%d+)$') -- a pack
  for i = 1, math.min(tonumber(inputs or '0'), 1000) do known[call .. ':' .. string.format('%.0f', first + i - 1)] = true end
end
local function note(messages)
  for _, message in ipairs(messages) do
    local id = string.match(message, '"id": "([^"]*)"')
    if id then add(id) end
  end
end
note(redis.call('LRANGE', P .. 'queue:' .. fn, 0, 49999))
note(redis.call('ZRANGE', P .. 'delayed:' .. fn, 0, 49999))
note(redis.call('LRANGE', P .. 'parked:' .. ARGV[2], 0, -1))
for _, container in ipairs(redis.call('SMEMBERS', P .. 'containers:' .. fn)) do
  local epoch = epoch_of(container)
  for e = math.max(1, epoch - 2), epoch do
    note(redis.call('LRANGE', P .. 'transit:' .. container .. ':' .. e, 0, -1))
    for _, id in ipairs(redis.call('HKEYS', P .. 'claims:' .. container .. ':' .. e)) do add(id) end
  end
end
for i = 3, #ARGV do
  if not known[ARGV[i]] then out[#out + 1] = ARGV[i] end
end
return out
