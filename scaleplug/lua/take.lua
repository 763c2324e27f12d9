#!lua flags=allow-oom
-- Take a message without waiting. ARGV: container, epoch, fn. Returns the message or nil.
return redis.call('LMOVE', P .. 'queue:' .. ARGV[3], P .. 'transit:' .. ARGV[1] .. ':' .. ARGV[2], 'RIGHT', 'LEFT')
