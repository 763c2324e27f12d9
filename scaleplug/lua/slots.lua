#!lua flags=allow-oom
-- Tell containers how many inputs they may run at once, and keep it for when they connect again.
-- ARGV: token, slots, container... Returns 1, or 0 when the lease is lost.
if not leads(ARGV[1]) then return 0 end
for i = 3, #ARGV do
  local record = P .. 'container:' .. ARGV[i]
  if redis.call('EXISTS', record) == 1 then
    redis.call('HSET', record, 'slots', ARGV[2])
    redis.call('RPUSH', P .. 'control:' .. ARGV[i], 'slots ' .. ARGV[2])
    redis.call('EXPIRE', P .. 'control:' .. ARGV[i], 60)
  end
end
return 1
