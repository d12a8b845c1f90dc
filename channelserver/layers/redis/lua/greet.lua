-- A host has a new connection.
-- Arguments: host, number of the connection.
-- Returns the number of its last message that has arrived, and the numbers of those for which there was no room; or
-- nothing if Redis does not know the host any more.
local key = P .. 'sent:' .. ARGV[2]
local known = redis.call('GET', key)
local last = known and string.match(known, '%d+$')
redis.call('SET', key, ARGV[3] .. ' ' .. (last or '0'), 'PX', 600000)
if not known then return {} end
return {last, redis.call('LRANGE', P .. 'refused:' .. ARGV[2], 0, -1)}
