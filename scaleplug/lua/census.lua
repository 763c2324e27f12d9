#!lua flags=allow-oom
-- Count, for people, what functions have. ARGV: fn... (every registered one if there is none).
-- Returns for each {fn, pending, delayed, running, starting, idle, busy, draining, finished, failed, refused}.
local fns = ARGV
if #fns == 0 then fns = redis.call('HKEYS', P .. 'functions') end
local out = {}
for i, fn in ipairs(fns) do
  local row = {fn, counts_of(fn)}
  local stats = redis.call('HMGET', P .. 'stats:' .. fn, 'finished', 'failed', 'refused')
  for n = 1, 3 do row[8 + n] = stats[n] or '0' end
  out[i] = row
end
return out
