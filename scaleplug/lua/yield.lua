#!lua
-- Send a part of a generator's items to the caller, while this container owns the input and somebody reads.
-- The verdict remembers what has been sent: a container that gets the input after that fails it instead of running it.
-- ARGV: container, epoch, fn, id, call, index, caller, attempt, part, items so far, payload ('' only looks).
-- Returns {'ok' | 'lost' | 'cancelled' | 'gone', the last part that was granted or ''}.
local fn, id, call, caller, part = ARGV[3], ARGV[4], ARGV[5], ARGV[7], tonumber(ARGV[9])
if redis.call('HEXISTS', P .. 'claims:' .. ARGV[1] .. ':' .. ARGV[2], id) == 0 then return {'lost', ''} end
if redis.call('EXISTS', P .. 'cancelled:' .. call) == 1 then return {'cancelled', ''} end
if redis.call('EXISTS', P .. 'caller:' .. caller) == 0 then return {'gone', ''} end
if ARGV[11] ~= '' then
  local verdict = redis.call('HGET', P .. 'verdicts:' .. fn, id)
  local sent = verdict and tonumber(string.match(verdict, '^streamed:%d+:(%d+)'))
  -- A part that was sent already comes again when the reply was lost.
  if not sent or sent < part then
    local inbox = P .. 'inbox:' .. caller
    redis.call('XADD', inbox, '*', 'c', call, 'i', ARGV[6], 'a', ARGV[8], 'n', part, 'p', ARGV[11])
    if redis.call('TTL', inbox) < 0 then redis.call('EXPIRE', inbox, 3600) end
    if not verdict or sent then
      redis.call('HSET', P .. 'verdicts:' .. fn, id, 'streamed:' .. ARGV[10] .. ':' .. part)
    end
  end
end
return {'ok', redis.call('GET', P .. 'granted:' .. call) or ''}
