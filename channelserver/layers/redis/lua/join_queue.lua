-- Makes an ordinary channel a member of a group, or ends its membership.
-- Arguments: group, channel, lifetime in ms (0 ends it), capacity, sealed membership.
local key, lifetime = P .. 'queued:' .. ARGV[2], tonumber(ARGV[4])
if lifetime > 0 then
  redis.call('HSET', key, ARGV[3], string.format('%.0f', now + lifetime) .. ':' .. ARGV[5] .. ':' .. ARGV[6])
  redis.call('PEXPIRE', key, lifetime + 60000)
else
  redis.call('HDEL', key, ARGV[3])
end
return 1
