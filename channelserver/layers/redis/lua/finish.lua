-- A host has consumed messages: their lanes go on.
-- Arguments: host, ids... A "~" before an id: the lane goes on, although the message is still being consumed.
local held, kept = P .. 'held:' .. ARGV[2], P .. 'kept:' .. ARGV[2]
for i = 3, #ARGV do
  local id = string.match(ARGV[i], '%d+')
  local what = redis.call('HGET', held, id)
  if what then
    local channel, lane = split(what)
    if string.sub(ARGV[i], 1, 1) == '~' then
      redis.call('HSET', held, id, channel .. ' ')
    else
      redis.call('HDEL', held, id)
      redis.call('HDEL', kept, id)
    end
    free(id, lane)
  end
end
return 1
