#!lua flags=allow-oom
-- Say for which functions nobody has to ring as inputs come. ARGV: token, then fn and when ('' for never) of each.
if not leads(ARGV[1]) then return 0 end
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', P .. 'calm', ARGV[i])
  else
    redis.call('HSET', P .. 'calm', ARGV[i], ARGV[i + 1])
  end
end
return 1
