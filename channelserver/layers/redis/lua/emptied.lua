-- Redis has been emptied: a host tells what it knows of the books that are gone.
-- Arguments: their epoch, the last change it knows of, how many messages waited then, and how many were held; the host,
-- how many of these it has, and of how many others it has copies, which it puts back; and nothing, "counted" if all
-- have been counted, or the age of the present books in ms from which on the host wants to count them.
-- Returns 1 if the host is the one to count them, 1 if they have been counted now, how many are lost that waited, and
-- how many that were held by hosts that have told nothing: they are dead.
local key, of_hosts, back = P .. 'emptied:' .. ARGV[2], 0, 0
local known = redis.call('HGET', key, 'serial')
if not known or tonumber(known) < tonumber(ARGV[3]) then
  redis.call('HSET', key, 'serial', ARGV[3], 'waiting', ARGV[4], 'held', ARGV[5])
end
redis.call('HSET', key, 'host ' .. ARGV[6], ARGV[7], 'back ' .. ARGV[6], ARGV[8])
local counted, own, from = redis.call('HEXISTS', key, 'counted'), 0, tonumber(ARGV[9])
if counted == 0 and (ARGV[9] == 'counted' or (from and age() >= from)) then
  redis.call('HSET', key, 'counted', 1)
  counted, own = 1, from and 1 or 0
end
redis.call('PEXPIRE', key, 60000)
for name, value in pairs(as_table(redis.call('HGETALL', key))) do
  if string.sub(name, 1, 5) == 'host ' then of_hosts = of_hosts + tonumber(value) end
  if string.sub(name, 1, 5) == 'back ' then back = back + tonumber(value) end
end
local waiting = tonumber(redis.call('HGET', key, 'waiting')) - back
local held = tonumber(redis.call('HGET', key, 'held')) - of_hosts + math.min(0, waiting)
return {own, counted, math.max(0, waiting), math.max(0, held)}
