#!lua flags=allow-oom
-- Tell the producer of a stream how far its consumer is. ARGV: call, the last part it has begun to read ('' when it
-- reads no more). Kept longer than any function may run, since the producer may be long in asking.
local credit = P .. 'credit:' .. ARGV[1]
redis.call('DEL', credit)
if ARGV[2] ~= '' then
  redis.call('RPUSH', credit, ARGV[2])
  redis.call('EXPIRE', credit, 90000)
end
return 1
