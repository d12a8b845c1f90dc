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
    redis.call('HSET', B, 'epoch', begun, 'serial', begun, 'waiting', 0, 'held', 0)
  end
  return begun
end
-- Milliseconds since then.
local function age() return t[1] * 1000 + t[2] / 1000 - tonumber(epoch()) / 1000 end
-- So many messages more wait in all queues, and so many more are held by hosts.
local function shift(by, held)
  epoch()
  redis.call('HINCRBY', B, 'serial', 1)
  if by ~= 0 then redis.call('HINCRBY', B, 'waiting', by) end
  if held ~= 0 then redis.call('HINCRBY', B, 'held', held) end
end
-- What a script returns last: the epoch, the number of the last change, how many messages wait, and how many are held.
local function books()
  local found = redis.call('HMGET', B, 'epoch', 'serial', 'waiting', 'held')
  if not found[1] then
    local begun = epoch()
    return {begun, tonumber(begun), 0, 0}
  end
  return {found[1], tonumber(found[2]), tonumber(found[3]), tonumber(found[4] or '0')}
end
-- Each host numbers the messages that it puts into queues, and its connections: when a connection is lost, the next one
-- asks which of them have arrived. What comes over an earlier one after that comes too late.
local function too_late(host, connection)
  local known = redis.call('GET', P .. 'sent:' .. host)
  return known and tonumber(string.match(known, '^%d+')) > tonumber(connection)
end
local function note_sent(host, connection, number, done)
  redis.call('SET', P .. 'sent:' .. host, connection .. ' ' .. number, 'PX', 600000)
  if done == 0 then
    redis.call('LPUSH', P .. 'refused:' .. host, number)
    redis.call('LTRIM', P .. 'refused:' .. host, 0, 999)
    redis.call('PEXPIRE', P .. 'refused:' .. host, 600000)
  end
end
-- Whether a message with a token has been put in before.
local function is_known(token) return token ~= '' and redis.call('EXISTS', P .. 'once:' .. token) == 1 end
local function note_known(token, done)
  if token ~= '' and done == 1 then redis.call('SET', P .. 'once:' .. token, 1, 'PX', 600000) end
end
-- Whether the messages of a channel may be consumed twice, so that a sender keeps a copy of each one until that has
-- ended: its hosts have told so lately, or the sender knows (`wanted`).
local function is_copied(channel, wanted)
  return wanted == '1' or tonumber(redis.call('ZSCORE', P .. 'requeued', channel) or '0') > now
end
local function mark_copied(copied, host, number, data)
  return copied and 'k' .. host .. ' ' .. number .. ' ' .. data or data
end
-- What a script returns after it has put in a message, or has not; 2: its sender is to keep a copy.
local function noted(copied, host, number, done)
  if not copied or done == 0 then return done end
  redis.call('HSET', P .. 'copies:' .. host, number, 1)
  redis.call('PEXPIRE', P .. 'copies:' .. host, 86400000)
  return 2
end
-- The host that has the copy, and the number that it knows it by; nothing: there is none.
local function copy_of(data) return string.match(data, '^k(%S+) (%d+) ') end
-- A message has ended, or is lost: its sender may forget it.
local function over(host, number)
  if host then
    redis.call('HDEL', P .. 'copies:' .. host, number)
    redis.call('PUBLISH', P .. 'host:' .. host, 'c' .. number)
  end
end
local function item_over(item)
  over(string.match(item, '^k(%S+) (%d+) ', 21 + tonumber(string.sub(item, 18, 20))))
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
        item_over(first)
        shrink(channel)
        count = count + 1
        advance(lane)
      end
    else
      if ends_of(item) > now then break end
      redis.call('LPOP', queue)
      item_over(item)
      count = count + 1
    end
  end
  if count > 0 then shift(-count, 0) end
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
  shift(1, 0)
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
  shift(1, 0)
  count(channel, 'messages_count')
  if length == 1 and redis.call('HEXISTS', P .. 'busy', lane) == 0 then advance(lane) end
  return 1, gone
end
-- What `held` tells of a message: its channel, its lane or its reply channel, if it has one, and "+" if it goes to
-- another worker if its host dies.
local function split(what)
  local flag, channel, lane = string.match(what, '^(%+?)(%S*) (.*)$')
  return channel, lane, flag
end
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
-- Put a message back: before all others.
local function put_again(id, channel, lane, item)
  if lane == '' and string.sub(item, 1, 1) == 'l' then item = 'p' .. string.sub(item, 2) end
  redis.call('SADD', P .. 'channels', channel)
  shift(1, 0)
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
-- In the order in which messages must be put back: the last one first.
local function sorted_ids(of)
  local ids = {}
  for id in pairs(of) do ids[#ids + 1] = id end
  table.sort(ids, function(one, other) return tonumber(one) > tonumber(other) end)
  return ids
end
local function as_table(words)
  local out = {}
  for i = 1, #words, 2 do out[words[i]] = words[i + 1] end
  return out
end
-- Forget a host: its memberships, and the messages it holds. Messages that may be consumed twice go to another worker,
-- unless they have seen more than `most` deaths. The others are lost; but if the host may be back (`doubted`), Redis
-- keeps what it holds, and nothing counts as lost yet. Returns a list with four items for each channel: its name, lost
-- messages, those of them that may be consumed twice, and those that go to another worker.
local function forget_host(host, lifetime, most, doubted)
  for _, group in ipairs(redis.call('SMEMBERS', P .. 'joined:' .. host)) do
    redis.call('ZREM', P .. 'reach:' .. group, host)
    for _, member in ipairs(redis.call('ZRANGE', P .. 'group:' .. group, 0, -1)) do
      if token_of(member) == host then redis.call('ZREM', P .. 'group:' .. group, member) end
    end
  end
  redis.call('DEL', P .. 'joined:' .. host)
  redis.call('ZREM', P .. 'hosts', host)
  redis.call('ZREM', P .. 'doubted', host)
  if doubted then redis.call('ZADD', P .. 'doubted', doubted, host) end
  local held, found, out, gone = as_table(redis.call('HGETALL', P .. 'held:' .. host)), {}, {}, 0
  for _, id in ipairs(sorted_ids(held)) do
    local channel, lane, flag = split(held[id])
    local item = redis.call('HGET', P .. 'kept:' .. host, id)
    local twice = flag == '+' and item
    local numbers = found[channel] or {0, 0, 0}
    found[channel] = numbers
    local again = twice and deaths_of(item) < most
    if again then
      numbers[3] = numbers[3] + 1
      put_again(id, channel, lane, make(string.sub(item, 1, 1), math.max(ends_of(item), now + lifetime), name_of(item),
        rest_of(item), deaths_of(item) + 1))
    elseif doubted then
      drop(id, channel, lane)
      redis.call('HSET', P .. 'held:' .. host, id, flag .. channel .. ' ')
      -- Out of its order, or without its client, it is of no use to another worker.
      if item and string.sub(item, 1, 1) ~= 'p' then redis.call('HDEL', P .. 'kept:' .. host, id) end
    else
      numbers[1] = numbers[1] + 1
      if twice then numbers[2] = numbers[2] + 1 end
      if item then item_over(item) end
      drop(id, channel, lane)
    end
    if again or not doubted then
      gone = gone + redis.call('HDEL', P .. 'held:' .. host, id)
      redis.call('HDEL', P .. 'kept:' .. host, id)
    end
  end
  if gone > 0 then shift(0, -gone) end
  for channel, numbers in pairs(found) do
    out[#out + 1] = channel
    for i = 1, 3 do out[#out + 1] = numbers[i] end
  end
  return out
end
