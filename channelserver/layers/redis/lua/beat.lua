-- A host gives a sign of life.
-- Arguments: host, milliseconds after which a host without one is silent, lifetime of a host in ms, channels that it
-- serves whose messages may be consumed twice...
-- Returns 1 if Redis did not know the host; the silent hosts, and those that have been cut off for so long; and the
-- books.
local sign = {'ZADD', P .. 'hosts', string.format('%.0f', now), ARGV[2]}
local added = redis.pcall(unpack(sign))
if type(added) == 'table' then -- without memory, Redis runs it behind another write only
  redis.call('ZREM', P .. 'doubted', ARGV[2])
  added = redis.call(unpack(sign))
end
if added == 1 then redis.call('ZREM', P .. 'doubted', ARGV[2]) end  -- it is never in both
for i = 5, #ARGV do redis.call('ZADD', P .. 'requeued', string.format('%.0f', now + 60000), ARGV[i]) end
local silent = redis.call('ZRANGEBYSCORE', P .. 'hosts', '-inf', now - tonumber(ARGV[3]))
for _, host in ipairs(redis.call('ZRANGEBYSCORE', P .. 'doubted', '-inf', now - tonumber(ARGV[4]))) do
  silent[#silent + 1] = host
end
return {added, silent, books()}
