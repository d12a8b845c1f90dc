-- Ends a lease, if it is still its owner's.
-- Arguments: name, owner.
local key = P .. 'lease:' .. ARGV[2]
if redis.call('GET', key) == ARGV[3] then redis.call('DEL', key) end
return 1
