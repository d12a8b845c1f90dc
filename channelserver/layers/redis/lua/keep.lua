-- Replaces the sealed message that goes to another worker if this host dies.
-- Arguments: host, id, sealed message.
local key = P .. 'kept:' .. ARGV[2]
local item = redis.call('HGET', key, ARGV[3])
if item then
  redis.call('HSET', key, ARGV[3], make(string.sub(item, 1, 1), ends_of(item), name_of(item), ARGV[4], deaths_of(item)))
end
return 1
