#!lua flags=allow-oom
-- ARGV: container, epoch, id. Returns 1 while the container owns the input.
return redis.call('HEXISTS', P .. 'claims:' .. ARGV[1] .. ':' .. ARGV[2], ARGV[3])
