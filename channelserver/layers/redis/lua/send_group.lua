-- Sends to a group.
-- Arguments: group, sending host, lifetime of messages in ms, lifetime of a host in ms, sealed message, its reply
-- channel or nothing, milliseconds for which the books are young.
-- Returns the number of live hosts with members that do not listen, the channels that were full, a list of channels
-- with the number of expired messages it dropped there, and the books.
-- If Redis was emptied a moment ago, all hosts get the message: it may not know yet which of them have members.
local group, sender, lifetime = ARGV[2], ARGV[3], tonumber(ARGV[4])
local deaf, full, gone = 0, {}, {}
local reach, hosts = P .. 'reach:' .. group, {}
if age() < tonumber(ARGV[8]) then
  redis.call('PUBLISH', P .. 'everyone', 'e' .. sender .. ' ' .. ARGV[6])
else
  hosts = redis.call('ZRANGEBYSCORE', reach, now, '+inf')
end
for _, host in ipairs(hosts) do
  if host ~= sender and redis.call('PUBLISH', P .. 'host:' .. host, 's' .. ARGV[6]) == 0 then
    local seen = redis.call('ZSCORE', P .. 'hosts', host)
    if seen and tonumber(seen) + tonumber(ARGV[5]) > now then
      deaf = deaf + 1
    else
      redis.call('ZREM', reach, host)
    end
  end
end
local key = P .. 'queued:' .. group
local queued = redis.call('HGETALL', key)
for i = 1, #queued, 2 do
  local member, ends, capacity, proof = queued[i], string.match(queued[i + 1], '^(%d+):(%d+):(.*)$')
  if tonumber(ends) <= now then
    redis.call('HDEL', key, member)
  else
    local channel = string.match(member, '^[^!]+!') or member
    local done, old
    capacity = tonumber(capacity)
    local data = 'g' .. string.format('%05d', #proof) .. proof .. ARGV[6]
    if ARGV[7] ~= '' and not string.find(member, '[!?]') then
      done, old = put_lane(channel, capacity, lifetime, member .. ' ' .. ARGV[7], capacity, data)
    else
      done, old = put(channel, capacity, make('p', now + lifetime, member, data))
    end
    if done == 0 then full[#full + 1] = member end
    if old > 0 then
      gone[#gone + 1] = channel
      gone[#gone + 1] = old
    end
  end
end
return {deaf, full, gone, books()}
