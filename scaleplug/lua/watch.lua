-- Ask for the outcome of a spawned call. ARGV: call, caller ('' only looks). Returns {outcome or '', known, cancelled, reason or ''}.
local call = ARGV[1]
local outcome = redis.call('GET', P .. 'result:' .. call)
local ended = redis.call('GET', P .. 'ended:' .. call)
if not outcome and not ended and ARGV[2] ~= '' then
  redis.call('SADD', P .. 'watchers:' .. call, ARGV[2])
  redis.call('EXPIRE', P .. 'watchers:' .. call, 86400)
end
return {outcome or '', redis.call('GET', P .. 'call:' .. call) or '', redis.call('EXISTS', P .. 'cancelled:' .. call), ended or ''}
