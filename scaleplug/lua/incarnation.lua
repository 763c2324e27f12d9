#!lua flags=allow-oom
-- Name this Redis, which keeps the name as long as its data. ARGV: a random name. Returns its name.
redis.call('SET', P .. 'incarnation', ARGV[1], 'NX')
return redis.call('GET', P .. 'incarnation')
