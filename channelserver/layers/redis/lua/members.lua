-- Returns the members of a group, without those of dead hosts.
-- Arguments: group, lifetime of a host in ms.
local out, alive = {}, {}
local key = P .. 'group:' .. ARGV[2]
redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
  local token = token_of(member)
  if alive[token] == nil then
    local seen = redis.call('ZSCORE', P .. 'hosts', token)
    alive[token] = seen and tonumber(seen) + tonumber(ARGV[3]) > now or false
  end
  if alive[token] then out[#out + 1] = member end
end
local queued = redis.call('HGETALL', P .. 'queued:' .. ARGV[2])
for i = 1, #queued, 2 do
  if tonumber(string.match(queued[i + 1], '^(%d+):')) > now then out[#out + 1] = queued[i] end
end
return out
