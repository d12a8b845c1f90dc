-- A host has consumed messages: their lanes go on.
-- Arguments: host, ids... A "~" before an id: the lane goes on, although the message is still being consumed.
-- Returns the books.
local held, kept, gone = P .. 'held:' .. ARGV[2], P .. 'kept:' .. ARGV[2], 0
for i = 3, #ARGV do
  local id = string.match(ARGV[i], '%d+')
  local what = redis.call('HGET', held, id)
  if what then
    local channel, lane, flag = split(what)
    if string.sub(ARGV[i], 1, 1) == '~' then
      redis.call('HSET', held, id, flag .. channel .. ' ')
    else
      gone = gone + redis.call('HDEL', held, id)
      redis.call('HDEL', kept, id)
    end
    free(id, lane)
  end
end
if gone > 0 then shift(0, -gone) end
return {books()}
