-- A host takes no more messages.
-- Arguments: host, channels...
for i = 3, #ARGV do redis.call('SREM', P .. 'idle:' .. ARGV[i], ARGV[2]) end
return 1
