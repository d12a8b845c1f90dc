-- Redis has been emptied: a host tells what it knows of the books that are gone.
-- Arguments: their epoch, the last change it knows of, how many messages waited then, and how many were held; the host,
-- and how many of these it has; and nothing, "counted" if all have been counted, or the age of the present books in ms
-- from which on the host wants to count them.
-- Returns 1 if the host is the one to count them, 1 if they have been counted now, how many waited, and how many were
-- held by hosts that have told nothing: they are dead.
local key, of_hosts = P .. 'emptied:' .. ARGV[2], 0
local known = redis.call('HGET', key, 'serial')
if not known or tonumber(known) < tonumber(ARGV[3]) then
  redis.call('HSET', key, 'serial', ARGV[3], 'waiting', ARGV[4], 'held', ARGV[5])
end
redis.call('HSET', key, 'host ' .. ARGV[6], ARGV[7])
local counted, own, from = redis.call('HEXISTS', key, 'counted'), 0, tonumber(ARGV[8])
if counted == 0 and (ARGV[8] == 'counted' or (from and age() >= from)) then
  redis.call('HSET', key, 'counted', 1)
  counted, own = 1, from and 1 or 0
end
redis.call('PEXPIRE', key, 60000)
for name, value in pairs(as_table(redis.call('HGETALL', key))) do
  if string.sub(name, 1, 5) == 'host ' then of_hosts = of_hosts + tonumber(value) end
end
local held = tonumber(redis.call('HGET', key, 'held'))
return {own, counted, tonumber(redis.call('HGET', key, 'waiting')), math.max(0, held - of_hosts)}
