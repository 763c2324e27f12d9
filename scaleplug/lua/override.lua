-- Lay settings over a function's, unless somebody else has in the meantime. ARGV: fn, the override that was read ('' for
-- none), the new one ('' for none). Returns 1, 0 when what was read is no longer true.
if (redis.call('HGET', P .. 'overrides', ARGV[1]) or '') ~= ARGV[2] then return 0 end
if ARGV[3] == '' then redis.call('HDEL', P .. 'overrides', ARGV[1]) else redis.call('HSET', P .. 'overrides', ARGV[1], ARGV[3]) end
ring('=' .. ARGV[1])
return 1
