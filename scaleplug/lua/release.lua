#!lua flags=allow-oom
-- Let an idle container go, atomically: from here on nothing it takes is accepted. ARGV: token, container, fn.
-- Returns 1, 0 when it holds something, -1 when the lease is lost.
if not leads(ARGV[1]) then return -1 end
local container, fn = ARGV[2], ARGV[3]
local epoch = epoch_of(container)
local held = redis.call('HLEN', P .. 'claims:' .. container .. ':' .. epoch)
if held + redis.call('LLEN', P .. 'transit:' .. container .. ':' .. epoch) > 0 then return 0 end
let_go(container, fn)
return 1
