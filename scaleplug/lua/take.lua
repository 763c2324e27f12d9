#!lua flags=allow-oom
-- Take messages without waiting. ARGV: container, epoch, fn, most. Returns them, the one to be claimed first at the front.
-- What is in transit already was taken by an earlier try whose answer got lost: it comes first.
local queue, transit, taken = P .. 'queue:' .. ARGV[3], P .. 'transit:' .. ARGV[1] .. ':' .. ARGV[2], {}
if epoch_of(ARGV[1]) ~= tonumber(ARGV[2]) then return taken end
if tonumber(ARGV[4]) > 0 then taken = redis.call('LRANGE', transit, 0, ARGV[4] - 1) end
for i = #taken + 1, tonumber(ARGV[4]) do
  local message = redis.call('LMOVE', queue, transit, 'RIGHT', 'RIGHT')
  if not message then break end
  taken[i] = message
end
return taken
