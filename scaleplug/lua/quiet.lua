#!lua flags=allow-oom
-- Return 1 while no function has an input or a container: two commands, however many functions there are.
local keys = {}
for _, fn in ipairs(redis.call('HKEYS', P .. 'functions')) do
  for _, kind in ipairs({'queue:', 'delayed:', 'running:', 'containers:'}) do keys[#keys + 1] = P .. kind .. fn end
end
for first = 1, #keys, 1000 do
  if redis.call('EXISTS', unpack(keys, first, math.min(first + 999, #keys))) > 0 then return 0 end
end
return 1
