#!lua flags=allow-oom
-- Take the lease, unless somebody holds it. ARGV: token, milliseconds. Returns 1 when it is taken.
return redis.call('SET', P .. 'lease', ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0
