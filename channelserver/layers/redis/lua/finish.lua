-- A host has consumed messages: their lanes go on.
-- Arguments: host, ids... A "~" before an id: the lane goes on, although the message is still being consumed. Behind an
-- id, after spaces, may be the host that has a copy of the message, and its number there.
-- Returns the books.
local held, kept, gone = P .. 'held:' .. ARGV[2], P .. 'kept:' .. ARGV[2], 0
for i = 3, #ARGV do
  local mark, id, owner, number = string.match(ARGV[i], '^(~?)(%d+) ?(%S*) ?(%d*)$')
  local what = redis.call('HGET', held, id)
  if what then
    local channel, lane, flag = split(what)
    if mark == '~' then
      redis.call('HSET', held, id, flag .. channel .. ' ')
    else
      gone = gone + redis.call('HDEL', held, id)
      redis.call('HDEL', kept, id)
    end
    free(id, lane)
  end
  if owner ~= '' then over(owner, number) end
end
if gone > 0 then shift(0, -gone) end
return {books()}
