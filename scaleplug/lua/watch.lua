-- Ask for the outcome of a spawned call. ARGV: call, caller ('' only looks). Returns {outcome or '', known, cancelled}.
local call = ARGV[1]
local outcome = redis.call('GET', P .. 'result:' .. call)
if not outcome and ARGV[2] ~= '' then
  redis.call('SADD', P .. 'watchers:' .. call, ARGV[2])
  redis.call('EXPIRE', P .. 'watchers:' .. call, 86400)
end
return {outcome or '', redis.call('GET', P .. 'call:' .. call) or '', redis.call('EXISTS', P .. 'cancelled:' .. call)}
