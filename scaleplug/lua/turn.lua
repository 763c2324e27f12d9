#!lua flags=allow-oom
-- Hand back inputs that have ended, and claim what comes next, in one step. For containers that run one after the other.
-- ARGV: container, epoch, fn, timeout, version of the container's code, most inputs to claim, number of ended ones, then for
--       each of these: id, inputs it held (of a pack: those that have ended), microseconds ('' to leave the service time alone), how many
--       failed, call, index, caller, keep, outcome ('' for none).
-- Returns {a '1' or '0' for each ended one: whether it was this container's still, 1 if this container is to take more, then
--       for each claimed one {message, attempt, verdict or '', crash or '', times retried}}. What was only taken (see
--       take.lua, BLMOVE) comes first, and is looked at in the same way. What can't be claimed here stays where it is.
local container, epoch, fn, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[6])
local claims, transit, queue = P .. 'claims:' .. container .. ':' .. epoch, P .. 'transit:' .. container .. ':' .. epoch, P .. 'queue:' .. fn
local owned, at = {}, 8
local ids, ended, failed, inner, timed, microseconds, buckets = {}, 0, 0, 0, 0, 0, {}

for i = 1, tonumber(ARGV[7]) do
  local id, inputs = ARGV[at], tonumber(ARGV[at + 1])
  local ours = redis.call('HDEL', claims, id) == 1
  if not ours and is_taken(transit, id) and epoch_of(container) == tonumber(epoch) then -- its claim was not heard
    redis.call('LPOP', transit)
    ours = true
  end
  if not ours then
    owned[i] = '0'
  else
    owned[i] = '1'
    ids[#ids + 1] = id
    ended, failed = ended + inputs, failed + tonumber(ARGV[at + 3])
    inner = inner + tonumber(string.match(id, ':%d+%+(%d+)$') or '1') - 1
    if ARGV[at + 2] ~= '' then
      timed, microseconds = timed + inputs, microseconds + ARGV[at + 2]
      if inputs > 0 then
        local bucket = bucket_of(ARGV[at + 2] / 1000000 / inputs)
        buckets[bucket] = (buckets[bucket] or 0) + inputs
      end
    end
    if ARGV[at + 8] ~= '' then
      deliver(ARGV[at + 4], ARGV[at + 5], ARGV[at + 6], tonumber(ARGV[at + 7]), ARGV[at + 8], nil, nil)
    end
  end
  at = at + 9
end
if #ids > 0 then
  redis.call('ZREM', P .. 'running:' .. fn, unpack(ids))
  redis.call('HDEL', P .. 'attempts:' .. fn, unpack(ids))
  local cancelling, verdicts, crashes, retries = P .. 'cancelling:' .. fn, P .. 'verdicts:' .. fn, P .. 'crashes:' .. fn, P .. 'retries:' .. fn
  if redis.call('EXISTS', cancelling, verdicts, crashes, retries) > 0 then
    redis.call('ZREM', cancelling, unpack(ids))
    for _, key in ipairs({verdicts, crashes, retries}) do redis.call('HDEL', key, unpack(ids)) end
  end
  for i, id in ipairs(ids) do ids[i] = P .. 'argument:' .. id end
  redis.call('UNLINK', unpack(ids))
  count_packed(fn, 'running', -inner)
  redis.call('HINCRBY', P .. 'stats:' .. fn, 'finished', ended)
  if timed > 0 then count_time(fn, string.format('%.0f', microseconds), timed, true) end
  note_times(fn, 'run', buckets)
  if failed > 0 then redis.call('HINCRBY', P .. 'stats:' .. fn, 'failed', failed) end
end

local out = {table.concat(owned), 1}
if most > 0 and epoch_of(container) ~= tonumber(epoch) then
  out[2] = 0
  most = 0
  -- Redis may have been emptied, and then nobody looks under this epoch any more.
  while redis.call('LMOVE', transit, queue, 'RIGHT', 'RIGHT') do ring(fn) end
end

-- What many messages have in common is looked up once.
local seen = {}
local function once(what, name, find)
  local key = what .. name
  if seen[key] == nil then seen[key] = find(name) end
  return seen[key]
end
local function lives(caller)
  return redis.call('EXISTS', P .. 'caller:' .. caller) == 1
end
local function newer(version)
  return version == redis.call('HGET', P .. 'versions', fn)
end

local function not_begun(id)
  if redis.call('HINCRBY', P .. 'attempts:' .. fn, id, -1) <= 0 then redis.call('HDEL', P .. 'attempts:' .. fn, id) end
end

local crashes, retries, deadline = nil, nil, nil
local held, deadlines, taken, bytes, claimed = {}, {}, 0, 0, {}
local waits, waited = {}, 0
local out_of_queue, now_running, from = 0, 0, transit
local looked = 0 -- at those of cancelled calls too: there may be a million
while taken < most and bytes < 4000000 and looked < 500 do
  looked = looked + 1
  local message = from == transit and redis.call('LINDEX', transit, 0)
  if not message then message, from = redis.call('LINDEX', queue, -1), queue end
  if not message then break end
  if not deadline then
    crashes, retries = redis.call('EXISTS', P .. 'crashes:' .. fn) == 1, redis.call('EXISTS', P .. 'retries:' .. fn) == 1
    deadline = now() + tonumber(ARGV[4])
  end
  local _, last = string.find(message, '"scaleplug": {"call": "', 1, true)
  local call, index, caller, keep, rest
  if last then call, index, caller, keep, rest = string.match(message, '^([^"]*)", "index": (%d+), "caller": "([^"]*)", "keep": (%d+)([^}]*)}', last + 1) end
  local _, id_at = string.find(message, '"id": "', 1, true)
  local id = call and id_at and string.match(message, '^([^"]*)"', id_at + 1)
  -- Not made by a caller of ours: nobody has signed these numbers.
  if not id or #index > 15 or #keep > 8 then break end
  local extra = extra_of(message)
  local version = string.match(rest, '"version": "([^"]*)"') or ''
  if #claimed > 0 and taken + extra + 1 > most then break end
  if version ~= '' and version ~= ARGV[5] and once('v', version, newer) then break end
  local attempt = redis.call('HINCRBY', P .. 'attempts:' .. fn, id, 1)
  local suspect = attempt > 1 or crashes and redis.call('HEXISTS', P .. 'crashes:' .. fn, id) == 1
  if suspect and #claimed > 0 then -- it may be to blame for a crash: it comes alone
    not_begun(id)
    break
  end
  if from == transit then redis.call('LPOP', transit) else redis.call('RPOP', queue) end
  out_of_queue = out_of_queue + extra
  if once('c', call, is_cancelled) then
    forget(fn, id)
    deliver(call, index, caller, tonumber(keep), nil, 'cancelled', nil, extra + 1)
  elseif caller ~= '' and not once('l', caller, lives) then
    not_begun(id)
    park(fn, caller, message)
  else
    local verdict, crash, retried = '', '', 0
    if attempt > 1 then
      verdict = redis.call('HGET', P .. 'verdicts:' .. fn, id) or ''
    end
    if crashes then crash = redis.call('HGET', P .. 'crashes:' .. fn, id) or '' end
    if retries then retried = tonumber(redis.call('HGET', P .. 'retries:' .. fn, id) or '0') end
    claimed[#claimed + 1] = {message, attempt, verdict, crash, retried}
    held[#held + 1] = id
    held[#held + 1] = message
    deadlines[#deadlines + 1] = deadline
    deadlines[#deadlines + 1] = id
    taken, bytes, now_running = taken + 1 + extra, bytes + #message, now_running + extra
    local wait = attempt == 1 and retried == 0 and wait_of(message)
    if wait then
      waits[bucket_of(wait)] = (waits[bucket_of(wait)] or 0) + 1 + extra
      waited = waited + wait * (1 + extra)
    end
    if suspect then break end
  end
end
count_packed(fn, 'pending', -out_of_queue)
count_packed(fn, 'running', now_running)
if next(waits) then note_times(fn, 'wait', waits, waited) end
if #claimed > 0 then
  redis.call('HSET', claims, unpack(held))
  redis.call('ZADD', P .. 'running:' .. fn, unpack(deadlines))
  redis.call('ZREM', P .. 'idle:' .. fn, container)
  ring_for_rest(fn)
  if #claimed > 1 then redis.call('HSET', P .. 'container:' .. container, 'serial', 1) end
  for i, row in ipairs(claimed) do out[2 + i] = row end
elseif #ids > 0 then
  now_idle(fn, container, epoch)
end
return out
