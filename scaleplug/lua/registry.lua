#!lua flags=allow-oom
-- Read what is registered, in one step. ARGV: fn... (all if there is none).
-- Returns for each that is registered {fn, sealed registration, sealed override or '', 1 if it retires}.
local fns = ARGV
if #fns == 0 then fns = redis.call('HKEYS', P .. 'functions') end
local out = {}
for _, fn in ipairs(fns) do
  local sealed = redis.call('HGET', P .. 'functions', fn)
  if sealed then
    out[#out + 1] = {
      fn, sealed, redis.call('HGET', P .. 'overrides', fn) or '', redis.call('SISMEMBER', P .. 'retiring', fn),
    }
  end
end
return out
