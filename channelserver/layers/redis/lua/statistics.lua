-- Returns a channel's figures: messages so far, refused ones, waiting ones, and the milliseconds that the oldest
-- has left, or -1.
-- Arguments: channel.
local channel = ARGV[2]
expire(channel)
local left = -1
local first = redis.call('LINDEX', P .. 'q:' .. channel, 0)
if first and string.sub(first, 1, 1) == 'L' then
  first = redis.call('LINDEX', P .. 'lane:' .. string.sub(first, 2), 0)
end
if first then left = ends_of(first) - now end
return {
  tonumber(redis.call('GET', S .. channel .. ':messages_count') or '0'),
  tonumber(redis.call('GET', S .. channel .. ':channel_full_count') or '0'),
  (waiting(channel)), left,
}
