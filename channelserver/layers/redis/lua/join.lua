-- Stores which of a host's own connections are members of a group.
-- Arguments: group, host, lifetime in ms, 1 if the host has members, then reply channel and 1 or 0...
local group, host, lifetime = ARGV[2], ARGV[3], tonumber(ARGV[4])
for i = 6, #ARGV, 2 do
  if ARGV[i + 1] == '1' then
    redis.call('ZADD', P .. 'group:' .. group, now + lifetime, ARGV[i])
  else
    redis.call('ZREM', P .. 'group:' .. group, ARGV[i])
  end
end
redis.call('PEXPIRE', P .. 'group:' .. group, lifetime + 60000)
if ARGV[5] == '1' then
  add_reach(group, host, lifetime)
else
  redis.call('ZREM', P .. 'reach:' .. group, host)
  redis.call('SREM', P .. 'joined:' .. host, group)
end
return 1
