-- Takes a lease, or extends it.
-- Arguments: name, owner, milliseconds. Returns 1 if it is the owner's now, else 0.
local key = P .. 'lease:' .. ARGV[2]
local owner = redis.call('GET', key)
if owner and owner ~= ARGV[3] then return 0 end
redis.call('SET', key, ARGV[3], 'PX', ARGV[4])
return 1
