-- Write again what a Redis that came back empty has lost, unless somebody has in the meantime.
-- ARGV: for each entry: the hash, its field, its value.
for i = 1, #ARGV, 3 do redis.call('HSETNX', P .. ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
redis.call('SADD', P .. 'dirty', '*')
if redis.call('LLEN', P .. 'bell') == 0 then redis.call('LPUSH', P .. 'bell', '1') end
return 1
