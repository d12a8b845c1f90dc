-- A host that was cut off holds these messages only; all others sent to it did not arrive, and are put back. If Redis
-- has been emptied, it knows of none of these, and others may be on their way.
-- Arguments: host, number of its connection, 1 if Redis has been emptied, lifetime in ms of messages that go to another
-- worker if the host dies; then id, what `held` tells, and, of such messages if Redis has been emptied, the name and
-- the sealed message...
-- Returns the channels of messages that were put back, the channels of those that are lost, and the books.
if too_late(ARGV[2], ARGV[3]) then return {{}, {}, books()} end
local held, kept, has, back, lost, more = P .. 'held:' .. ARGV[2], P .. 'kept:' .. ARGV[2], {}, {}, {}, 0
for i = 6, #ARGV, 4 do
  has[ARGV[i]] = true
  if ARGV[4] == '1' then
    local _, lane = split(ARGV[i + 1])
    local name, data = ARGV[i + 2], ARGV[i + 3]
    more = more + redis.call('HSET', held, ARGV[i], ARGV[i + 1])
    if lane ~= '' then redis.call('HSETNX', P .. 'busy', lane, ARGV[i]) end
    if data ~= '' then
      redis.call('HSET', kept, ARGV[i], make(lane == '' and 'p' or 'l', now + tonumber(ARGV[5]), name, data))
      local owner, number = copy_of(data)
      noted(owner, owner, number, 1)
    end
  end
end
local known = ARGV[4] == '1' and {} or as_table(redis.call('HGETALL', held))
for _, id in ipairs(sorted_ids(known)) do
  if not has[id] then
    local channel, lane = split(known[id])
    local item = redis.call('HGET', kept, id)
    more = more - redis.call('HDEL', held, id)
    redis.call('HDEL', kept, id)
    if item then
      back[#back + 1] = channel
      put_again(id, channel, lane, item)
    else
      lost[#lost + 1] = channel
      drop(id, channel, lane)
    end
  end
end
if more ~= 0 then shift(0, more) end
return {back, lost, books()}
