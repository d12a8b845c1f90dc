-- Makes a connection of another host a member of a group, or ends its membership.
-- Arguments: group, reply channel, the other host, lifetime in ms (0 ends it), what to publish to the other host.
-- Returns whether that host listens.
local group, channel, host, lifetime = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local heard = redis.call('PUBLISH', P .. 'host:' .. host, ARGV[6])
if heard > 0 and lifetime > 0 then
  redis.call('ZADD', P .. 'group:' .. group, now + lifetime, channel)
  redis.call('PEXPIRE', P .. 'group:' .. group, lifetime + 60000)
  add_reach(group, host, lifetime)
else
  redis.call('ZREM', P .. 'group:' .. group, channel)
end
return heard
