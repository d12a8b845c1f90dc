-- A host has consumed messages: their lanes go on.
-- Arguments: host, reply channels...
local host = ARGV[2]
for i = 3, #ARGV do
  redis.call('HDEL', P .. 'held:' .. host, ARGV[i])
  if redis.call('HGET', P .. 'busy', ARGV[i]) == host then
    redis.call('HDEL', P .. 'busy', ARGV[i])
    advance(ARGV[i])
  end
end
return 1
