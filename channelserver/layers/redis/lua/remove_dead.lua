-- Removes those of some silent hosts that are dead.
-- Arguments: lifetime of a host in ms, the same for a host that does not listen, hosts...
-- Returns the names of removed hosts, each with the number of messages it held.
local out = {}
for i = 4, #ARGV do
  local seen = redis.call('ZSCORE', P .. 'hosts', ARGV[i])
  if seen then
    local listens = redis.call('PUBSUB', 'NUMSUB', P .. 'host:' .. ARGV[i])[2]
    local lifetime = tonumber(listens) == 0 and ARGV[3] or ARGV[2]
    if tonumber(seen) + tonumber(lifetime) <= now then
      out[#out + 1] = ARGV[i]
      out[#out + 1] = forget_host(ARGV[i])
    end
  end
end
return out
