-- Redis has been emptied: a host tells what it knows of the books that are gone.
-- Arguments: host (nothing: it will not ask), their epoch, the last change it knows of, how many messages waited then.
-- Returns the name of the host that asks later on what the others know; how many messages waited at last; and the age
-- of the present books in ms.
local key = P .. 'emptied:' .. ARGV[3]
local known = redis.call('HGET', key, 'serial')
if not known or tonumber(known) < tonumber(ARGV[4]) then
  redis.call('HSET', key, 'serial', ARGV[4], 'waiting', ARGV[5])
end
if ARGV[2] ~= '' then redis.call('HSETNX', key, 'asks', ARGV[2]) end
redis.call('PEXPIRE', key, 60000)
return {redis.call('HGET', key, 'asks') or '', tonumber(redis.call('HGET', key, 'waiting')), age()}
