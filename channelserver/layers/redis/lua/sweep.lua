-- Drops expired messages at the heads of all queues.
-- Arguments: milliseconds for which no other host does the same.
-- Returns a list of channels with the number of messages it dropped there, and the books.
local gone = {}
if redis.call('SET', P .. 'swept', 1, 'NX', 'PX', ARGV[2]) then
  for _, channel in ipairs(redis.call('SRANDMEMBER', P .. 'channels', 1000)) do
    local number = expire(channel)
    if number > 0 then
      gone[#gone + 1] = channel
      gone[#gone + 1] = number
    end
    if redis.call('EXISTS', P .. 'q:' .. channel) == 0 and redis.call('HEXISTS', P .. 'size', channel) == 0 then
      redis.call('SREM', P .. 'channels', channel)
    end
  end
end
return {gone, books()}
