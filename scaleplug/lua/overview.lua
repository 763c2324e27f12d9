#!lua flags=allow-oom
-- Count, for people who watch, what functions have. ARGV: fn... (every registered one if there is none).
-- Returns the time, then for each {fn, pending, delayed, running, starting, idle, busy, draining, finished, failed,
-- refused, retried, starts, the last point of its history or ''}.
local fns = ARGV
if #fns == 0 then fns = redis.call('HKEYS', P .. 'functions') end
local out = {tostring(now())}
for i, fn in ipairs(fns) do
  local row = {fn, counts_of(fn)}
  local stats = redis.call('HMGET', P .. 'stats:' .. fn, 'finished', 'failed', 'refused', 'retried', 'starts')
  for n = 1, 5 do row[8 + n] = stats[n] or '0' end
  row[14] = redis.call('LRANGE', P .. 'history:' .. fn, 0, 0)[1] or ''
  out[1 + i] = row
end
return out
