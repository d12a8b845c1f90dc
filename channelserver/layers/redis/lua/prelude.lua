-- Precedes each script: the parameters that all have, and functions that several of them use.
local P, S = KEYS[1], KEYS[2]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[1])
local function ends_of(item) return tonumber(string.sub(item, 2, 16)) end
local function deaths_of(item) return tonumber(string.sub(item, 17, 17)) end
local function name_of(item) return string.sub(item, 21, 20 + tonumber(string.sub(item, 18, 20))) end
local function rest_of(item) return string.sub(item, 21 + tonumber(string.sub(item, 18, 20))) end
local function make(kind, ends, name, data, deaths)
  return kind .. string.format('%015.0f%d%03d', ends, deaths or 0, #name) .. name .. data
end
-- The books: gone if Redis has been emptied, and begun anew by the next script. The epoch is the time at which they
-- were begun, in microseconds; from there on, changes of the queues have numbers.
local B = P .. 'books'
local function epoch()
  local begun = redis.call('HGET', B, 'epoch')
  if not begun then
    begun = t[1] .. string.format('%06d', t[2])
    redis.call('HSET', B, 'epoch', begun, 'serial', begun, 'waiting', 0)
  end
  return begun
end
-- Milliseconds since then.
local function age() return t[1] * 1000 + t[2] / 1000 - tonumber(epoch()) / 1000 end
-- So many messages more wait in all queues.
local function shift(by)
  epoch()
  redis.call('HINCRBY', B, 'serial', 1)
  redis.call('HINCRBY', B, 'waiting', by)
end
-- What a script returns last: the epoch, the number of the last change, and how many messages wait.
local function books()
  local found = redis.call('HMGET', B, 'epoch', 'serial', 'waiting')
  if not found[1] then
    local begun = epoch()
    return {begun, tonumber(begun), 0}
  end
  return {found[1], tonumber(found[2]), tonumber(found[3])}
end
local function token_of(name) return string.match(name, '%.([%w_%-]+)!') or '' end
local function wake(channel)
  while true do
    local host = redis.call('SPOP', P .. 'idle:' .. channel)
    if not host then return end
    if redis.call('PUBLISH', P .. 'host:' .. host, 'w' .. channel) > 0 then return end
  end
end
local function shrink(channel)
  if redis.call('HINCRBY', P .. 'size', channel, -1) <= 0 then redis.call('HDEL', P .. 'size', channel) end
end
-- All messages of these are in lanes, so their tokens need not be counted.
local SOCKET = {
  ['websocket.connect'] = true, ['websocket.receive'] = true, ['websocket.disconnect'] = true,
  ['websocket.session'] = true,
}
local function count_token(channel)
  if not SOCKET[channel] then redis.call('HINCRBY', P .. 'size', channel .. ' ', 1) end
end
local function drop_token(channel)
  if not SOCKET[channel] then shrink(channel .. ' ') end
end
-- How many messages wait in a channel, and how many tokens are among the items of its queue.
local function waiting(channel)
  local length = redis.call('LLEN', P .. 'q:' .. channel)
  if SOCKET[channel] then return math.max(length, tonumber(redis.call('HGET', P .. 'size', channel) or '0')), 1 end
  local size = redis.call('HMGET', P .. 'size', channel, channel .. ' ')
  local tokens = tonumber(size[2] or '0')
  return length + tonumber(size[1] or '0') - tokens, tokens
end
local function advance(lane)
  local first = redis.call('LINDEX', P .. 'lane:' .. lane, 0)
  if first then
    local channel = name_of(first)
    redis.call('RPUSH', P .. 'q:' .. channel, 'L' .. lane)
    count_token(channel)
    redis.call('PEXPIRE', P .. 'q:' .. channel, 86400000)
    wake(channel)
  end
end
-- Drop what has expired at the head of a queue; return how many.
local function expire(channel)
  local queue, count = P .. 'q:' .. channel, 0
  for _ = 1, 200 do
    local item = redis.call('LINDEX', queue, 0)
    if not item then break end
    if string.sub(item, 1, 1) == 'L' then
      local lane = string.sub(item, 2)
      local first = redis.call('LINDEX', P .. 'lane:' .. lane, 0)
      if first and ends_of(first) > now then break end
      redis.call('LPOP', queue)
      drop_token(channel)
      if first then
        redis.call('LPOP', P .. 'lane:' .. lane)
        shrink(channel)
        count = count + 1
        advance(lane)
      end
    else
      if ends_of(item) > now then break end
      redis.call('LPOP', queue)
      count = count + 1
    end
  end
  if count > 0 then shift(-count) end
  return count
end
-- A host has members in a group.
local function add_reach(group, host, lifetime)
  redis.call('ZADD', P .. 'reach:' .. group, now + lifetime, host)
  redis.call('PEXPIRE', P .. 'reach:' .. group, lifetime + 60000)
  redis.call('SADD', P .. 'joined:' .. host, group)
end
local function count(channel, what)
  local key = S .. channel .. ':' .. what
  redis.call('INCR', key)
  redis.call('PEXPIRE', key, 86400000)
end
local function put(channel, capacity, item)
  local queue, gone = P .. 'q:' .. channel, 0
  local length = waiting(channel)
  if length >= capacity then
    gone = expire(channel)
    length = waiting(channel)
  end
  if length >= capacity then
    count(channel, 'channel_full_count')
    return 0, gone
  end
  redis.call('RPUSH', queue, item)
  redis.call('PEXPIRE', queue, 86400000)
  redis.call('SADD', P .. 'channels', channel)
  shift(1)
  count(channel, 'messages_count')
  wake(channel)
  return 1, gone
end
-- Put a message into a lane; a limit below 0 ignores both capacities.
local function put_lane(channel, capacity, lifetime, lane, limit, data)
  local key, gone = P .. 'lane:' .. lane, 0
  if limit >= 0 then
    local length = waiting(channel)
    if length >= capacity then
      gone = expire(channel)
      length = length - gone
    end
    if length >= capacity or redis.call('LLEN', key) >= limit then
      count(channel, 'channel_full_count')
      return 0, gone
    end
  end
  redis.call('HINCRBY', P .. 'size', channel, 1)
  local length = redis.call('RPUSH', key, make('l', now + lifetime, channel, data))
  redis.call('PEXPIRE', key, 86400000)
  redis.call('SADD', P .. 'channels', channel)
  shift(1)
  count(channel, 'messages_count')
  if length == 1 and redis.call('HEXISTS', P .. 'busy', lane) == 0 then advance(lane) end
  return 1, gone
end
-- What `held` tells of a message: its channel, and its lane or its reply channel, if it has one.
local function split(what) return string.match(what, '^(%S*) (.*)$') end
-- A message of a lane is no longer being consumed.
local function free(id, lane)
  if lane ~= '' and redis.call('HGET', P .. 'busy', lane) == id then
    redis.call('HDEL', P .. 'busy', lane)
    advance(lane)
  end
end
-- Nobody will consume a message: its lane goes on, and a client that waits for an answer gets an error.
local function drop(id, channel, lane)
  if channel == 'http.request' or channel == 'websocket.connect' then
    redis.call('PUBLISH', P .. 'host:' .. token_of(lane), 'f' .. lane)
  end
  free(id, lane)
end
-- Put a message back with which a host died.
local function put_again(id, channel, lane, item, lifetime)
  item = make(string.sub(item, 1, 1), math.max(ends_of(item), now + lifetime), name_of(item), rest_of(item),
    deaths_of(item) + 1)
  redis.call('SADD', P .. 'channels', channel)
  shift(1)
  if string.sub(item, 1, 1) == 'l' then
    redis.call('HINCRBY', P .. 'size', channel, 1)
    local length = redis.call('LPUSH', P .. 'lane:' .. lane, item)
    redis.call('PEXPIRE', P .. 'lane:' .. lane, 86400000)
    local busy = redis.call('HGET', P .. 'busy', lane)
    if busy == id then redis.call('HDEL', P .. 'busy', lane) end
    if busy == id or (not busy and length == 1) then advance(lane) end
  else
    redis.call('LPUSH', P .. 'q:' .. channel, item)
    redis.call('PEXPIRE', P .. 'q:' .. channel, 86400000)
    wake(channel)
  end
end
-- Forget a host: its memberships, and the messages it holds. Messages that may be consumed twice go to another worker,
-- unless they have seen more than `most` deaths. Returns a list with four items for each channel: its name, lost
-- messages, those of them that may be consumed twice, and those that go to another worker.
local function forget_host(host, lifetime, most)
  for _, group in ipairs(redis.call('SMEMBERS', P .. 'joined:' .. host)) do
    redis.call('ZREM', P .. 'reach:' .. group, host)
    for _, member in ipairs(redis.call('ZRANGE', P .. 'group:' .. group, 0, -1)) do
      if token_of(member) == host then redis.call('ZREM', P .. 'group:' .. group, member) end
    end
  end
  redis.call('DEL', P .. 'joined:' .. host)
  local held, kept = redis.call('HGETALL', P .. 'held:' .. host), redis.call('HGETALL', P .. 'kept:' .. host)
  redis.call('DEL', P .. 'held:' .. host, P .. 'kept:' .. host)
  redis.call('ZREM', P .. 'hosts', host)
  local item_of, ids, what_of, found, out = {}, {}, {}, {}, {}
  for i = 1, #kept, 2 do item_of[kept[i]] = kept[i + 1] end
  for i = 1, #held, 2 do
    ids[#ids + 1] = held[i]
    what_of[held[i]] = held[i + 1]
  end
  table.sort(ids, function(one, other) return tonumber(one) > tonumber(other) end)
  for _, id in ipairs(ids) do
    local channel, lane = split(what_of[id])
    local item = item_of[id]
    local numbers = found[channel]
    if not numbers then
      numbers = {0, 0, 0}
      found[channel] = numbers
    end
    if item and deaths_of(item) < most then
      numbers[3] = numbers[3] + 1
      put_again(id, channel, lane, item, lifetime)
    else
      numbers[1] = numbers[1] + 1
      if item then numbers[2] = numbers[2] + 1 end
      drop(id, channel, lane)
    end
  end
  for channel, numbers in pairs(found) do
    out[#out + 1] = channel
    for i = 1, 3 do out[#out + 1] = numbers[i] end
  end
  return out
end
