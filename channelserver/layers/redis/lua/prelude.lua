-- Precedes each script: the parameters that all have, and functions that several of them use.
local P, S = KEYS[1], KEYS[2]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[1])
local function ends_of(item) return tonumber(string.sub(item, 2, 16)) end
local function name_of(item) return string.sub(item, 20, 19 + tonumber(string.sub(item, 17, 19))) end
local function rest_of(item) return string.sub(item, 20 + tonumber(string.sub(item, 17, 19))) end
local function make(kind, ends, name, data)
  return kind .. string.format('%015.0f', ends) .. string.format('%03d', #name) .. name .. data
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
local function put(channel, capacity, lifetime, item)
  local queue, gone = P .. 'q:' .. channel, 0
  local length, tokens = waiting(channel)
  if length >= capacity then
    gone = expire(channel)
    length, tokens = waiting(channel)
  end
  if length >= capacity then
    count(channel, 'channel_full_count')
    return 0, gone
  end
  redis.call('RPUSH', queue, item)
  redis.call('PEXPIRE', queue, tokens > 0 and 86400000 or lifetime + 60000)
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
  count(channel, 'messages_count')
  if length == 1 and redis.call('HEXISTS', P .. 'busy', lane) == 0 then advance(lane) end
  return 1, gone
end
-- A host will not consume a message: its lane goes on, and a client that waits for an answer gets an error.
local function drop(host, reply, channel)
  if channel == 'http.request' or channel == 'websocket.connect' then
    redis.call('PUBLISH', P .. 'host:' .. token_of(reply), 'f' .. reply)
  end
  if redis.call('HGET', P .. 'busy', reply) == host then
    redis.call('HDEL', P .. 'busy', reply)
    advance(reply)
  end
end
-- Forget a host: its memberships, and the messages it holds. Return how many it held.
local function forget_host(host)
  for _, group in ipairs(redis.call('SMEMBERS', P .. 'joined:' .. host)) do
    redis.call('ZREM', P .. 'reach:' .. group, host)
    for _, member in ipairs(redis.call('ZRANGE', P .. 'group:' .. group, 0, -1)) do
      if token_of(member) == host then redis.call('ZREM', P .. 'group:' .. group, member) end
    end
  end
  redis.call('DEL', P .. 'joined:' .. host)
  local held = redis.call('HGETALL', P .. 'held:' .. host)
  redis.call('DEL', P .. 'held:' .. host)
  for i = 1, #held, 2 do drop(host, held[i], held[i + 1]) end
  redis.call('ZREM', P .. 'hosts', host)
  return #held / 2
end
