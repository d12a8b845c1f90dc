-- Returns a channel's figures: messages so far, refused ones, waiting ones, and the milliseconds that the oldest
-- has left, or -1.
-- Arguments: channel.
local channel = ARGV[2]
expire(channel)
local queue = P .. 'q:' .. channel
local waiting, left = redis.call('HGET', P .. 'size', channel), -1
if not waiting then
  waiting = redis.call('LLEN', queue)
  local first = redis.call('LINDEX', queue, 0)
  if first and string.sub(first, 1, 1) ~= 'L' then left = ends_of(first) - now end
end
return {
  tonumber(redis.call('GET', S .. channel .. ':messages_count') or '0'),
  tonumber(redis.call('GET', S .. channel .. ':channel_full_count') or '0'),
  tonumber(waiting), left,
}
