#!lua flags=allow-oom
-- Look at a spawned call. ARGV: call, first index, most, caller to be told of that first input's end ('' only looks).
-- Returns {fn or '', inputs, 1 if all have ended, 1 if cancelled, ends from the first index on, up to a gap or 4 MB...};
-- an end is '+' and the outcome, or '-' and a reason.
local call, first, bytes = ARGV[1], tonumber(ARGV[2]), 0
local known = redis.call('HMGET', P .. 'call:' .. call, 'fn', 'inputs', 'over')
local out = {known[1] or '', tonumber(known[2] or '0') or 0, known[3] and 1 or 0, is_cancelled(call) and 1 or 0}
for index = first, first + tonumber(ARGV[3]) - 1 do
  local ended = redis.call('HGET', P .. 'results:' .. call, tostring(index))
  if not ended or bytes > 4000000 then break end
  out[#out + 1] = ended
  bytes = bytes + #ended
end
if #out == 4 and ARGV[4] ~= '' then
  local watchers = P .. 'watchers:' .. call .. ':' .. ARGV[2]
  redis.call('SADD', watchers, ARGV[4])
  redis.call('EXPIRE', watchers, 86400)
end
return out
