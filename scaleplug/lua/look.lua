#!lua flags=allow-oom,no-writes
-- Look at the message a container takes, in the step in which it does. ARGV: container, epoch, fn, version of its code.
-- Returns the time and the input's id where begin.lua would claim it, for the first time: then it may begin at once, and
-- its claim follows. Else ''.
local transit = P .. 'transit:' .. ARGV[1] .. ':' .. ARGV[2]
local message = redis.call('LINDEX', transit, 0)
if not message or epoch_of(ARGV[1]) ~= tonumber(ARGV[2]) then return '' end
local _, last = string.find(message, '"scaleplug": {"call": "', 1, true)
local call, caller, rest
if last then call, caller, rest = string.match(message, '^([^"]*)", "index": %d+, "caller": "([^"]*)", "keep": %d+([^}]*)}', last + 1) end
local id = string.match(message, '"id": "([^"]*)"')
if not call or not id or string.find(rest, '"pack"', 1, true) then return '' end
local version = string.match(rest, '"version": "([^"]*)"') or ''
if version ~= '' and version ~= ARGV[4] then return '' end
local kinds = {P .. 'attempts:' .. ARGV[3], P .. 'verdicts:' .. ARGV[3], P .. 'crashes:' .. ARGV[3], P .. 'retries:' .. ARGV[3]}
if redis.call('EXISTS', unpack(kinds)) > 0 then
  for _, kind in ipairs(kinds) do
    if redis.call('HEXISTS', kind, id) == 1 then return '' end
  end
end
if is_cancelled(call) or caller ~= '' and redis.call('EXISTS', P .. 'caller:' .. caller) == 0 then return '' end
local t = redis.call('TIME')
return string.format('%s.%06d %s', t[1], t[2], id)
