-- Removes those of some silent hosts that are dead.
-- Arguments: lifetime of a host in ms, the same for a host that does not listen, lifetime of messages in ms, most
-- deaths of a message, hosts...
-- Returns the names of removed hosts, each with what became of its messages, as forget_host() tells.
local out = {}
for i = 6, #ARGV do
  local seen = redis.call('ZSCORE', P .. 'hosts', ARGV[i])
  if seen then
    local listens = redis.call('PUBSUB', 'NUMSUB', P .. 'host:' .. ARGV[i])[2]
    local lifetime = tonumber(listens) == 0 and ARGV[3] or ARGV[2]
    if tonumber(seen) + tonumber(lifetime) <= now then
      out[#out + 1] = ARGV[i]
      out[#out + 1] = forget_host(ARGV[i], tonumber(ARGV[4]), tonumber(ARGV[5]))
    end
  end
end
return out
