-- Puts one message of a socket into its lane.
-- Arguments: channel, capacity, lifetime in ms, lane, capacity of the lane, 1 to ignore both capacities, sealed
-- message.
-- Returns 1 if there was room, else 0; and how many expired messages it dropped.
local channel, capacity, lifetime, lane = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local key, gone = P .. 'lane:' .. lane, 0
if ARGV[7] ~= '1' then
  local size = tonumber(redis.call('HGET', P .. 'size', channel) or '0')
  if size >= capacity then
    gone = expire(channel)
    size = size - gone
  end
  if size >= capacity or redis.call('LLEN', key) >= tonumber(ARGV[6]) then
    count(channel, 'channel_full_count')
    return {0, gone}
  end
end
redis.call('HINCRBY', P .. 'size', channel, 1)
local length = redis.call('RPUSH', key, make('l', now + lifetime, channel, ARGV[8]))
redis.call('PEXPIRE', key, 86400000)
count(channel, 'messages_count')
if length == 1 and redis.call('HEXISTS', P .. 'busy', lane) == 0 then advance(lane) end
return {1, gone}
