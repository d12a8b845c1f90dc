-- A host that was cut off holds these messages only; all others sent to it did not arrive.
-- Arguments: host, reply channels...
local host, has = ARGV[2], {}
for i = 3, #ARGV do has[ARGV[i]] = true end
local held = redis.call('HGETALL', P .. 'held:' .. host)
for i = 1, #held, 2 do
  if not has[held[i]] then
    redis.call('HDEL', P .. 'held:' .. host, held[i])
    drop(host, held[i], held[i + 1])
  end
end
return 1
