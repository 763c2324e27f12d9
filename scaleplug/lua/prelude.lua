-- Put before every script, as far as it needs it. KEYS[1] is the prefix of the namespace; scaleplug/keys.py has the table of keys.
if redis.replicate_commands then redis.replicate_commands() end
local P = KEYS[1]

local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- Wake the controller for one function. One token is enough: the set says for whom.
local function ring(fn)
  -- Where it was among them already, whoever added it has rung, and nobody has come yet.
  if redis.call('SADD', P .. 'dirty', fn) == 1 and redis.call('LLEN', P .. 'bell') == 0 then
    redis.call('LPUSH', P .. 'bell', '1')
  end
end

-- Ring for inputs that have come, so that so many are pending; not where the controller has said that it has nothing to
-- decide then: containers that idle take them all, or all that there may be are there.
local function ring_for(fn, pending)
  local calm = redis.call('HGET', P .. 'calm', fn)
  if calm == 'full' then return end
  if calm and pending <= redis.call('ZCARD', P .. 'idle:' .. fn) then
    redis.call('SADD', P .. 'unrung', fn)
  else
    ring(fn)
  end
end

-- Ring after all where a container has begun one of these and left others: it had seemed to idle still.
local function ring_for_rest(fn)
  if redis.call('SREM', P .. 'unrung', fn) == 1 and redis.call('LLEN', P .. 'queue:' .. fn) > 0 then ring(fn) end
end

-- True while the caller of the script holds the lease; an empty token stands for the container itself.
local function leads(token)
  return token == '' or redis.call('GET', P .. 'lease') == token
end

-- Return a function's name, and what to answer when it takes no inputs: nobody has registered it, or it retires and the
-- inputs don't come from inside its app, which a '!' before the name stands for.
local function admit(marked)
  local fn = string.match(marked, '^!?(.*)$')
  local takes = redis.call('HEXISTS', P .. 'functions', fn) == 1 and
    (fn ~= marked or redis.call('SISMEMBER', P .. 'retiring', fn) == 0)
  return fn, not takes and {-1, 0, 0} or nil
end

local function epoch_of(container)
  return tonumber(redis.call('HGET', P .. 'container:' .. container, 'epoch') or '0')
end

-- The inputs that a message holds beyond its first: those of a pack. As json.dumps writes the header.
local function extra_of(message)
  local _, last = string.find(message, '"keep": 0, "pack": ', 1, true)
  local inputs = last and tonumber(string.match(message, '^%d+', last + 1))
  return inputs and inputs > 1 and inputs <= 1000 and inputs - 1 or 0 -- nobody has signed it
end

-- Packs come to (or leave) a place, 'pending' or 'running': a message each, so what they hold beyond that is counted.
local function count_packed(fn, place, extra)
  if extra ~= 0 and redis.call('HINCRBY', P .. 'packed:' .. fn, place, extra) <= 0 then
    redis.call('HDEL', P .. 'packed:' .. fn, place)
  end
end

-- The inputs in a place that has so many messages; an empty one has none, whatever has been counted.
local function inputs_in(fn, place, messages)
  if messages == 0 then return 0 end
  return messages + tonumber(redis.call('HGET', P .. 'packed:' .. fn, place) or '0')
end

local function pending_of(fn)
  return inputs_in(fn, 'pending', redis.call('LLEN', P .. 'queue:' .. fn))
end

local function running_of(fn)
  return inputs_in(fn, 'running', redis.call('ZCARD', P .. 'running:' .. fn))
end

local drop_cancelled -- below

-- Put back at the head of the queue what a container holds under one epoch. Inputs that were only being taken were not
-- started, so they keep their count of attempts; `blameless` takes the started ones' attempt back too, and so does having
-- been one of several that ran one after the other: most of these had not begun, and each runs alone the next time.
-- Inputs of cancelled calls end here: no container has to be started only to drop them.
local function give_back(fn, container, epoch, reason, blameless)
  local queue, returned = P .. 'queue:' .. fn, 0
  local claims, transit = P .. 'claims:' .. container .. ':' .. epoch, P .. 'transit:' .. container .. ':' .. epoch
  local held = redis.call('HGETALL', claims)
  local several = #held > 2 and redis.call('HEXISTS', P .. 'container:' .. container, 'serial') == 1
  for i = 1, #held, 2 do
    local id = held[i]
    local extra = extra_of(held[i + 1])
    count_packed(fn, 'running', -extra)
    if not drop_cancelled(fn, id, held[i + 1]) then
      redis.call('RPUSH', queue, held[i + 1])
      count_packed(fn, 'pending', extra)
      redis.call('ZREM', P .. 'running:' .. fn, id)
      local verdict = redis.call('HGET', P .. 'verdicts:' .. fn, id)
      if not verdict or string.sub(verdict, 1, 9) == 'streamed:' then
        if (blameless or several or extra > 0) and not verdict then
          redis.call('HINCRBY', P .. 'attempts:' .. fn, id, -1)
        end
        if verdict or not blameless then redis.call('HSET', P .. 'crashes:' .. fn, id, reason) end
      end
      returned = returned + 1
    end
  end
  redis.call('DEL', claims)
  while true do
    local message = redis.call('RPOP', transit)
    if not message then break end
    redis.call('RPUSH', queue, message)
    returned = returned + 1
  end
  if returned > 0 then ring(fn) end
  return returned
end

-- The large outcomes to which a spawned call's results refer stay as long as these: `seconds`, or on and on where that is nil.
local function keep_large(call, seconds)
  local large = P .. 'large:' .. call
  local keys = redis.call('SMEMBERS', large)
  keys[#keys + 1] = large
  for _, key in ipairs(keys) do
    if seconds then redis.call('EXPIRE', key, seconds) else redis.call('PERSIST', key) end
  end
end

-- Let a spawned call's record and results stay until its last input has ended, and then as long as `keep` says. One that
-- still gets inputs is not kept for ever: who sends them may be gone.
local function settle(call, keep)
  local record, results = P .. 'call:' .. call, P .. 'results:' .. call
  local known = redis.call('HMGET', record, 'inputs', 'open')
  if not known[1] then
    redis.call('EXPIRE', results, keep)
    keep_large(call, keep)
  elseif known[2] then
    redis.call('EXPIRE', record, keep + 86400)
    redis.call('EXPIRE', results, keep + 86400)
  elseif redis.call('HLEN', results) >= (tonumber(known[1]) or 0) then
    redis.call('HSET', record, 'over', '1')
    redis.call('EXPIRE', record, keep + 86400)
    redis.call('EXPIRE', results, keep)
    keep_large(call, keep)
  end
end

-- Write down a spawned call: `inputs` is how many it has by now, `open` whether more are to come.
local function remember(call, fn, inputs, open, keep)
  local record = P .. 'call:' .. call
  redis.call('HSET', record, 'fn', fn, 'inputs', inputs)
  if open then
    redis.call('HSET', record, 'open', '1')
    settle(call, keep)
  end
end

-- Store the end of a spawned call's input; false when that is known already, or no longer. `large` is the key of an
-- outcome to which the payload only refers.
local function store_end(call, index, keep, payload, refused, large)
  local record, results = P .. 'call:' .. call, P .. 'results:' .. call
  local known = redis.call('HMGET', record, 'inputs', 'over')
  if known[1] and (tonumber(index) < 0 or tonumber(index) >= (tonumber(known[1]) or 0)) then return false end
  if known[2] and redis.call('HEXISTS', results, index) == 0 then return false end
  local value = payload and '+' .. payload or '-' .. refused
  if redis.call('HSETNX', results, index, value) == 0 then
    -- The first end counts, but what is signed stands above a reason that is not.
    if not payload or string.sub(redis.call('HGET', results, index), 1, 1) == '+' then return false end
    redis.call('HSET', results, index, value)
  end
  if large then
    redis.call('SADD', P .. 'large:' .. call, large)
    -- Who sends the inputs of an open call may be gone; complete.lua lets them stay.
    if redis.call('HEXISTS', record, 'open') == 1 then
      redis.call('EXPIRE', large, keep + 86400)
      redis.call('EXPIRE', P .. 'large:' .. call, keep + 86400)
    end
  end
  settle(call, keep)
  return true
end

-- What a message's headers say of who waits for its outcome, and its id; nil where they say nothing that holds. Nobody has
-- signed them, and an error here would stop whoever runs the script for good.
local function reply_in(message)
  local ok, parsed = pcall(cjson.decode, message)
  local headers = ok and type(parsed) == 'table' and parsed.headers
  local reply = type(headers) == 'table' and headers.scaleplug
  if type(reply) ~= 'table' or type(reply.call) ~= 'string' or type(headers.id) ~= 'string' then return nil end
  local function whole(n, most) return type(n) == 'number' and n == n and math.max(0, math.min(math.floor(n), most)) or 0 end
  local caller = type(reply.caller) == 'string' and reply.caller or ''
  return {call = reply.call, index = whole(reply.index, 2 ^ 53), caller = caller, keep = whole(reply.keep, 366 * 86400),
    inputs = extra_of(message) + 1}, headers.id
end

local function is_cancelled(call)
  return redis.call('EXISTS', P .. 'cancelled:' .. call) == 1 or redis.call('HEXISTS', P .. 'call:' .. call, 'cancelled') == 1
end

local expiring = {}

-- Store the outcome of an input where its caller looks for it; false when nobody needs it any more. `count` is how many
-- inputs a reason is about, from that index on: those of a pack.
local function deliver(call, index, caller, keep, payload, refused, large, count)
  local callers = {}
  if caller ~= '' then callers[1] = caller end
  if keep > 0 then
    if not store_end(call, index, keep, payload, refused, large) then return false end
    local watchers = P .. 'watchers:' .. call .. ':' .. index
    for _, watcher in ipairs(redis.call('SMEMBERS', watchers)) do callers[#callers + 1] = watcher end
    if #callers > 0 then redis.call('DEL', watchers) end
  end
  for _, who in ipairs(callers) do
    local inbox = P .. 'inbox:' .. who
    if refused then
      redis.call('XADD', inbox, '*', 'c', call, 'i', index, 'e', refused, 'k', count or 1)
    else
      redis.call('XADD', inbox, '*', 'c', call, 'i', index, 'p', payload)
    end
    -- A caller that was paused finds it when it goes on; one that is gone leaves nothing behind for long.
    if not expiring[inbox] and redis.call('TTL', inbox) < 0 then redis.call('EXPIRE', inbox, 3600) end
    expiring[inbox] = true
  end
  return true
end

-- Let the draft of a large value count from here on: for `seconds`, or until it is deleted where that is nil.
local function accept(draft, seconds)
  if redis.call('EXISTS', draft) == 0 then return end -- this was done before, and the reply was lost
  local key = P .. string.sub(draft, #P + #'draft:' + 1)
  redis.call('RENAME', draft, key)
  if seconds then redis.call('EXPIRE', key, seconds) else redis.call('PERSIST', key) end
  return key
end

-- An input has come to its end, in whatever way.
local function forget(fn, id)
  redis.call('UNLINK', P .. 'argument:' .. id)
  redis.call('ZREM', P .. 'running:' .. fn, id)
  redis.call('HDEL', P .. 'attempts:' .. fn, id)
  redis.call('HDEL', P .. 'verdicts:' .. fn, id)
  redis.call('HDEL', P .. 'crashes:' .. fn, id)
  redis.call('HDEL', P .. 'retries:' .. fn, id)
  redis.call('ZREM', P .. 'cancelling:' .. fn, id)
end

-- The call that an input belongs to: those of a map have a number behind it, and packs of them how many they are.
local function call_of(id)
  return string.match(id, '^(.*):%d+%+?%d*$') or id
end

-- End an input that some container held if its call is cancelled; false if it isn't.
drop_cancelled = function(fn, id, message)
  local call = call_of(id)
  if not is_cancelled(call) then return false end
  forget(fn, id)
  local reply = reply_in(message)
  if reply and reply.call == call then
    deliver(call, reply.index, reply.caller, reply.keep, nil, 'cancelled', nil, reply.inputs)
  end
  return true
end

-- Keep a message until it is due, and let the controller know when it is the first of its function.
local function put_off(fn, due, message)
  redis.call('ZADD', P .. 'delayed:' .. fn, due, message)
  local known = redis.call('ZSCORE', P .. 'due', fn)
  if not known or tonumber(due) < tonumber(known) then
    redis.call('ZADD', P .. 'due', due, fn)
    redis.call('SADD', P .. 'dirty', '@due')
    ring(fn)
  end
end

-- The upper edges of the histograms' buckets, in seconds; store/watching.py has the same ones.
local EDGES = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800}
local function bucket_of(seconds)
  for i = 1, #EDGES do
    if seconds <= EDGES[i] then return i end
  end
  return #EDGES + 1
end

-- Note, for people, how long things took: how many in each bucket, and all together, which of 'run' is known anyway.
local function note_times(fn, kind, counts, seconds)
  local times = P .. 'times:' .. fn
  for bucket, count in pairs(counts) do redis.call('HINCRBY', times, kind .. bucket, count) end
  if seconds then redis.call('HINCRBY', times, kind, string.format('%.0f', seconds * 1000000)) end
end

-- How long an input has waited, by its caller's reckoning of this server's clock; nil where nobody says. Nobody has
-- signed it.
local function wait_of(message)
  local sent = tonumber(string.match(message, '"sent": (%d+%.%d+)}}$', -32) or nil)
  local waited = sent and now() - sent
  return waited and waited > -5 and waited < 366 * 86400 and math.max(0, waited) or nil
end

-- What a function has now: inputs pending, delayed and running, then containers that start, idle, are busy, and leave.
local function counts_of(fn)
  local ready, idle = redis.call('ZCARD', P .. 'ready:' .. fn), redis.call('ZCARD', P .. 'idle:' .. fn)
  local starting, draining = 0, 0
  if redis.call('SCARD', P .. 'containers:' .. fn) > ready then
    for _, container in ipairs(redis.call('SMEMBERS', P .. 'containers:' .. fn)) do
      local state = redis.call('HGET', P .. 'container:' .. container, 'state')
      if state == 'starting' then starting = starting + 1 end
      if state == 'released' then draining = draining + 1 end
    end
  end
  return pending_of(fn), redis.call('ZCARD', P .. 'delayed:' .. fn), running_of(fn), starting, idle, ready - idle, draining
end

-- `bucketed`: the caller has noted the single times already.
local function count_time(fn, microseconds, inputs, bucketed)
  if microseconds == '' then return end
  if not bucketed then
    local count = tonumber(inputs or 1)
    if count > 0 then note_times(fn, 'run', {[bucket_of(tonumber(microseconds) / 1000000 / count)] = count}) end
  end
  redis.call('HINCRBY', P .. 'stats:' .. fn, 'timed', inputs or 1)
  redis.call('HINCRBY', P .. 'stats:' .. fn, 'microseconds', microseconds)
end

-- Take a container out of service that holds nothing: from here on nothing it takes is accepted.
local function let_go(container, fn)
  redis.call('HINCRBY', P .. 'container:' .. container, 'epoch', 1)
  redis.call('HSET', P .. 'container:' .. container, 'state', 'released')
  redis.call('ZREM', P .. 'idle:' .. fn, container)
  redis.call('ZREM', P .. 'ready:' .. fn, container)
end

-- The index under which a pending message asks for its outcome, if it belongs to the call; '0' where it names none.
local function input_of(message, call)
  -- As json.dumps writes the header: a call's id alone also stands in what its inputs have sent on.
  local _, last = string.find(message, '"call": "' .. call .. '"', 1, true)
  return last and (string.match(message, '^, "index": (%d+)', last + 1) or '0')
end

-- Forget a pending input of a cancelled call, which is taken off its queue; `keep` of 0 tells nobody.
local function drop_pending(fn, message, call, index, caller, keep)
  local id = string.match(message, '"id": "([^"]*)"')
  if id then forget(fn, id) end
  count_packed(fn, 'pending', -extra_of(message))
  if keep > 0 then deliver(call, index, caller, keep, nil, 'cancelled') end
end

local function now_idle(fn, container, epoch)
  if redis.call('HLEN', P .. 'claims:' .. container .. ':' .. epoch) == 0 then
    redis.call('ZADD', P .. 'idle:' .. fn, now(), container)
  end
end

-- Keep an input, taken off its queue, for a caller that seems gone: revive.lua brings it back when it isn't.
local function park(fn, caller, message)
  redis.call('RPUSH', P .. 'parked:' .. caller, fn, message)
  redis.call('EXPIRE', P .. 'parked:' .. caller, 86400)
  local id = string.match(message, '"id": "([^"]*)"')
  if id then redis.call('EXPIRE', P .. 'argument:' .. id, 2 * 86400) end -- longer than its message: parking more renews that
end
