#!lua flags=allow-oom
-- Write down that a host lives. ARGV: host. Returns {host, time of its last sign...}; those of a day ago are forgotten.
local hosts = P .. 'hosts'
redis.call('ZADD', hosts, now(), ARGV[1])
redis.call('ZREMRANGEBYSCORE', hosts, '-inf', now() - 86400)
return redis.call('ZRANGE', hosts, 0, -1, 'WITHSCORES')
