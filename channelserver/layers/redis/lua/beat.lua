-- A host gives a sign of life.
-- Arguments: host, milliseconds after which a host without one is silent.
-- Returns 1 if Redis did not know the host; the silent hosts; and the books.
local added = redis.call('ZADD', P .. 'hosts', string.format('%.0f', now), ARGV[2])
return {added, redis.call('ZRANGEBYSCORE', P .. 'hosts', '-inf', now - tonumber(ARGV[3])), books()}
