-- Redis has been emptied: a host tells what it knows of the books that are gone.
-- Arguments: their epoch, the last change it knows of, how many messages waited then; and nothing, "counted" if they
-- have been counted, or the age of the present books in ms from which on the host wants to count them.
-- Returns 1 if the host is the one to count them, 1 if they have been counted now, and how many there were.
local key = P .. 'emptied:' .. ARGV[2]
local known = redis.call('HGET', key, 'serial')
if not known or tonumber(known) < tonumber(ARGV[3]) then
  redis.call('HSET', key, 'serial', ARGV[3], 'waiting', ARGV[4])
end
local counted, own, from = redis.call('HEXISTS', key, 'counted'), 0, tonumber(ARGV[5])
if counted == 0 and (ARGV[5] == 'counted' or (from and age() >= from)) then
  redis.call('HSET', key, 'counted', 1)
  counted, own = 1, from and 1 or 0
end
redis.call('PEXPIRE', key, 60000)
return {own, counted, tonumber(redis.call('HGET', key, 'waiting'))}
