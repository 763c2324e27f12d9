#!lua flags=allow-oom
-- Tell the producer of a stream how far its consumer is. ARGV: call, the last part it has begun to read ('' when it
-- reads no more). The list wakes a producer that waits; the string holds if the reply to that gets lost. Kept longer than
-- any function may run, since a producer may be long in asking.
local granted, credit = P .. 'granted:' .. ARGV[1], P .. 'credit:' .. ARGV[1]
redis.call('DEL', granted, credit)
if ARGV[2] ~= '' then
  redis.call('SET', granted, ARGV[2], 'EX', 90000)
  redis.call('RPUSH', credit, ARGV[2])
  redis.call('EXPIRE', credit, 90000)
end
return 1
