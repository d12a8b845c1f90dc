-- A host that was cut off holds these messages only; all others sent to it did not arrive. If Redis has been emptied,
-- it knows of none of these, and others may be on their way.
-- Arguments: host, 1 if Redis has been emptied; then id and channel, a space, and lane or reply channel...
-- Returns the channels of messages that did not arrive.
local held, has, lost = P .. 'held:' .. ARGV[2], {}, {}
for i = 4, #ARGV, 2 do
  has[ARGV[i]] = true
  if ARGV[3] == '1' then
    local _, lane = split(ARGV[i + 1])
    redis.call('HSET', held, ARGV[i], ARGV[i + 1])
    if lane ~= '' then redis.call('HSETNX', P .. 'busy', lane, ARGV[i]) end
  end
end
local known = ARGV[3] == '1' and {} or redis.call('HGETALL', held)
for i = 1, #known, 2 do
  if not has[known[i]] then
    local channel, lane = split(known[i + 1])
    redis.call('HDEL', held, known[i])
    redis.call('HDEL', P .. 'kept:' .. ARGV[2], known[i])
    lost[#lost + 1] = channel
    drop(known[i], channel, lane)
  end
end
return lost
