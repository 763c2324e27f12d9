#!lua flags=allow-oom
-- Take a cancelled call's pending inputs off a slice of a queue too long to be rewritten in one go.
-- ARGV: fn, call, keep, where the slice begins, its length. Returns {removed, where the next one begins (-1: nowhere)}.
-- Slices go from the newest input to the oldest: what is taken meanwhile moves nothing that comes after.
local fn, call, queue, keep = ARGV[1], ARGV[2], P .. 'queue:' .. ARGV[1], tonumber(ARGV[3])
local first, removed, grave = tonumber(ARGV[4]), 0, 'cancelled ' .. ARGV[2]
local found = redis.call('LRANGE', queue, first, first + tonumber(ARGV[5]) - 1)
for i, message in ipairs(found) do
  local index = input_of(message, call)
  if index then
    redis.call('LSET', queue, first + i - 1, grave)
    drop_pending(fn, message, call, index, '', keep)
    removed = removed + 1
  end
end
if removed > 0 then redis.call('LREM', queue, removed, grave) end
if #found < tonumber(ARGV[5]) then
  ring(fn)
  return {removed, -1}
end
return {removed, first + #found - removed}
