-- Removes those of some silent hosts that are dead.
-- Arguments: lifetime of a host in ms, the same for a host that does not listen, lifetime of messages in ms, most
-- deaths of a message, hosts...
-- A host that does not listen may be back after the shorter time, if it was only cut off: what it holds is lost after
-- the longer one.
-- Returns the names of removed hosts, each with 1 if it was removed before, and with what became of its messages, as
-- forget_host() tells.
local out, whole = {}, tonumber(ARGV[2])
for i = 6, #ARGV do
  local host = ARGV[i]
  local seen, doubted = redis.call('ZSCORE', P .. 'hosts', host), redis.call('ZSCORE', P .. 'doubted', host)
  local listens = redis.call('PUBSUB', 'NUMSUB', P .. 'host:' .. host)[2]
  local since = tonumber(seen or doubted)
  local lifetime = seen and tonumber(listens) == 0 and tonumber(ARGV[3]) or whole
  if since and since + lifetime <= now then
    out[#out + 1] = host
    out[#out + 1] = seen and 0 or 1
    out[#out + 1] = forget_host(host, tonumber(ARGV[4]), tonumber(ARGV[5]), since + whole > now and since or nil)
  end
end
return out
