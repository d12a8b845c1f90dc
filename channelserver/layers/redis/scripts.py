"""What Redis does in one step: scripts in Lua.

Runs in Redis; the module owns the texts. Every script gets the prefix of all keys as ``KEYS[1]``, the prefix of the
statistics as ``KEYS[2]`` and, as ``ARGV[1]``, milliseconds to be added to Redis's clock (0, but for tests). Time is
Redis's own, so hosts need not agree on it.

Keys, after the prefix:

=============== ========== =====================================================================================
``q:CHANNEL``   list       what waits in a channel: messages, and tokens of lanes that are ready
``lane:REPLY``  list       the messages of one socket that wait for their turn
``busy``        hash       lane to the host that has its turn
``size``        hash       channel to the number of messages in lanes
``idle:CHANNEL`` set       hosts with a free thread, which want to hear of new messages
``held:HOST``   hash       what a host has in its hands: reply channel to channel
``hosts``       sorted set host to the time when it last gave a sign of life
``group:NAME``  sorted set members that are reply channels, to the end of their membership
``queued:NAME`` hash       members that are ordinary channels, to the end of their membership and the capacity
``reach:NAME``  sorted set hosts that have members in a group, to the end of the last membership
``joined:HOST`` set        groups in which a host has members
``host:HOST``   (pub/sub)  what is told to a host
=============== ========== =====================================================================================

An item of a queue is one letter (``p`` plain, ``t`` with a reply channel, ``L`` the token of a lane), then, but for
tokens, 15 digits of its end, 3 digits of the length of a name, the name, and the sealed message.
"""

from __future__ import annotations

_PRELUDE = """
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
local function advance(lane)
  local first = redis.call('LINDEX', P .. 'lane:' .. lane, 0)
  if first then
    local channel = name_of(first)
    redis.call('RPUSH', P .. 'q:' .. channel, 'L' .. lane)
    redis.call('PEXPIRE', P .. 'q:' .. channel, 86400000)
    wake(channel)
  end
end
local function shrink(channel)
  if redis.call('HINCRBY', P .. 'size', channel, -1) <= 0 then redis.call('HDEL', P .. 'size', channel) end
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
local function count(channel, what)
  local key = S .. channel .. ':' .. what
  redis.call('INCR', key)
  redis.call('PEXPIRE', key, 86400000)
end
local function put(channel, capacity, lifetime, item)
  local queue, gone = P .. 'q:' .. channel, 0
  if redis.call('LLEN', queue) >= capacity then gone = expire(channel) end
  if redis.call('LLEN', queue) >= capacity then
    count(channel, 'channel_full_count')
    return 0, gone
  end
  redis.call('RPUSH', queue, item)
  redis.call('PEXPIRE', queue, lifetime + 60000)
  count(channel, 'messages_count')
  wake(channel)
  return 1, gone
end
-- A host will not deal with a message; its lane goes on, and who waits for an answer hears that there will be none.
local function drop(host, reply, channel)
  if channel == 'http.request' or channel == 'websocket.connect' then
    redis.call('PUBLISH', P .. 'host:' .. token_of(reply), 'f' .. reply)
  end
  if redis.call('HGET', P .. 'busy', reply) == host then
    redis.call('HDEL', P .. 'busy', reply)
    advance(reply)
  end
end
-- Forget a host.
local function bury(host)
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
"""

#: Put one message into a channel. ``channel, capacity, lifetime in ms, kind, name, sealed message``; the answer is
#: whether there was room, and how many expired messages had to go.
PUSH = (
    _PRELUDE
    + """
local ends = now + tonumber(ARGV[4])
local done, gone = put(ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), make(ARGV[5], ends, ARGV[6], ARGV[7]))
return {done, gone}
"""
)

#: Put one message of a socket into its lane. ``channel, capacity, lifetime in ms, lane, places in the lane, whether it
#: must go in, sealed message``; the answer as for :data:`PUSH`.
PUSH_LANE = (
    _PRELUDE
    + """
local channel, capacity, lifetime, lane = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local key, gone = P .. 'lane:' .. lane, 0
if ARGV[7] ~= '1' then
  local size = tonumber(redis.call('HGET', P .. 'size', channel) or '0')
  if size >= capacity then
    gone = expire(channel)
    size = size - gone
  end
  if size >= capacity or redis.call('LLEN', key) >= tonumber(ARGV[6]) then
    count(channel, 'channel_full_count')
    return {0, gone}
  end
end
redis.call('HINCRBY', P .. 'size', channel, 1)
local length = redis.call('RPUSH', key, make('l', now + lifetime, channel, ARGV[8]))
redis.call('PEXPIRE', key, 86400000)
count(channel, 'messages_count')
if length == 1 and redis.call('HEXISTS', P .. 'busy', lane) == 0 then advance(lane) end
return {1, gone}
"""
)

#: Take messages. ``host, how many, whether to tell the host of new ones if there are fewer, channels...``; the answer
#: is a list of messages, four items each (channel, milliseconds left, reply channel or nothing, sealed message), and a
#: list of channels with the number of messages that had expired.
POP = (
    _PRELUDE
    + """
local host, wanted = ARGV[2], tonumber(ARGV[3])
local out, gone, taken = {}, {}, 0
local function take(channel)
  while true do
    local item = redis.call('LPOP', P .. 'q:' .. channel)
    if not item then return false end
    local reply, lane = '', false
    if string.sub(item, 1, 1) == 'L' then
      lane = string.sub(item, 2)
      reply = lane
      item = redis.call('LPOP', P .. 'lane:' .. lane)
      if item then shrink(channel) end
    end
    if item then
      local left = ends_of(item) - now
      if left <= 0 then
        gone[channel] = (gone[channel] or 0) + 1
        if lane then advance(lane) end
      else
        local name = name_of(item)
        if lane then
          redis.call('HSET', P .. 'busy', lane, host)
        elseif string.sub(item, 1, 1) == 't' then
          reply, name = name, channel
        end
        -- Moved here from elsewhere by hand: whoever opens it will find another name in it.
        if (string.match(name, '^[^!]+!') or name) ~= channel then name = channel end
        if reply ~= '' then redis.call('HSET', P .. 'held:' .. host, reply, channel) end
        out[#out + 1] = name
        out[#out + 1] = string.format('%.0f', left)
        out[#out + 1] = reply
        out[#out + 1] = rest_of(item)
        return true
      end
    end
  end
end
local any = true
while any and taken < wanted do
  any = false
  for i = 5, #ARGV do
    if taken < wanted and take(ARGV[i]) then
      taken = taken + 1
      any = true
    end
  end
end
if taken < wanted and ARGV[4] == '1' then
  for i = 5, #ARGV do redis.call('SADD', P .. 'idle:' .. ARGV[i], host) end
end
local lost = {}
for channel, number in pairs(gone) do
  lost[#lost + 1] = channel
  lost[#lost + 1] = number
end
return {out, lost}
"""
)

#: Messages have been dealt with. ``host, reply channels...``
FINISH = (
    _PRELUDE
    + """
local host = ARGV[2]
for i = 3, #ARGV do
  redis.call('HDEL', P .. 'held:' .. host, ARGV[i])
  if redis.call('HGET', P .. 'busy', ARGV[i]) == host then
    redis.call('HDEL', P .. 'busy', ARGV[i])
    advance(ARGV[i])
  end
end
return 1
"""
)

#: A host that was cut off has no more than these in its hands: what else it was given did not arrive. ``host, reply
#: channels...``
RECLAIM = (
    _PRELUDE
    + """
local host, has = ARGV[2], {}
for i = 3, #ARGV do has[ARGV[i]] = true end
local held = redis.call('HGETALL', P .. 'held:' .. host)
for i = 1, #held, 2 do
  if not has[held[i]] then
    redis.call('HDEL', P .. 'held:' .. host, held[i])
    drop(host, held[i], held[i + 1])
  end
end
return 1
"""
)

#: The host that was woken has no free thread any more: wake another one. ``channel``
PASS_ON = _PRELUDE + "if redis.call('LLEN', P .. 'q:' .. ARGV[2]) > 0 then wake(ARGV[2]) end return 1"

#: The host wants to hear of new messages no longer. ``host, channels...``
RETIRE = _PRELUDE + "for i = 3, #ARGV do redis.call('SREM', P .. 'idle:' .. ARGV[i], ARGV[2]) end return 1"

#: A host's own members in one group are these. ``group, host, lifetime in ms, whether the host has members, then
#: reply channel and 1 or 0...``
JOIN = (
    _PRELUDE
    + """
local group, host, lifetime = ARGV[2], ARGV[3], tonumber(ARGV[4])
for i = 6, #ARGV, 2 do
  if ARGV[i + 1] == '1' then
    redis.call('ZADD', P .. 'group:' .. group, now + lifetime, ARGV[i])
  else
    redis.call('ZREM', P .. 'group:' .. group, ARGV[i])
  end
end
redis.call('PEXPIRE', P .. 'group:' .. group, lifetime + 60000)
if ARGV[5] == '1' then
  redis.call('ZADD', P .. 'reach:' .. group, now + lifetime, host)
  redis.call('PEXPIRE', P .. 'reach:' .. group, lifetime + 60000)
  redis.call('SADD', P .. 'joined:' .. host, group)
else
  redis.call('ZREM', P .. 'reach:' .. group, host)
  redis.call('SREM', P .. 'joined:' .. host, group)
end
return 1
"""
)

#: Make a reply channel of another host a member, or end its membership. ``group, channel, the other host, lifetime in
#: ms (0 ends it), what to tell the other host``; the answer is whether that host heard it.
JOIN_OTHER = (
    _PRELUDE
    + """
local group, channel, host, lifetime = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local heard = redis.call('PUBLISH', P .. 'host:' .. host, ARGV[6])
if heard > 0 and lifetime > 0 then
  redis.call('ZADD', P .. 'group:' .. group, now + lifetime, channel)
  redis.call('PEXPIRE', P .. 'group:' .. group, lifetime + 60000)
  redis.call('ZADD', P .. 'reach:' .. group, now + lifetime, host)
  redis.call('PEXPIRE', P .. 'reach:' .. group, lifetime + 60000)
  redis.call('SADD', P .. 'joined:' .. host, group)
else
  redis.call('ZREM', P .. 'group:' .. group, channel)
end
return heard
"""
)

#: Make an ordinary channel a member. ``group, channel, lifetime in ms (0 ends the membership), capacity``
JOIN_QUEUE = (
    _PRELUDE
    + """
local key, lifetime = P .. 'queued:' .. ARGV[2], tonumber(ARGV[4])
if lifetime > 0 then
  redis.call('HSET', key, ARGV[3], string.format('%.0f', now + lifetime) .. ':' .. ARGV[5])
  redis.call('PEXPIRE', key, lifetime + 60000)
else
  redis.call('HDEL', key, ARGV[3])
end
return 1
"""
)

#: The members of a group. ``group, lifetime of a host in ms``; those of hosts which are dead are left out.
MEMBERS = (
    _PRELUDE
    + """
local out, alive = {}, {}
local key = P .. 'group:' .. ARGV[2]
redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
  local token = token_of(member)
  if alive[token] == nil then
    local seen = redis.call('ZSCORE', P .. 'hosts', token)
    alive[token] = seen and tonumber(seen) + tonumber(ARGV[3]) > now or false
  end
  if alive[token] then out[#out + 1] = member end
end
local queued = redis.call('HGETALL', P .. 'queued:' .. ARGV[2])
for i = 1, #queued, 2 do
  if tonumber(string.match(queued[i + 1], '^(%d+):')) > now then out[#out + 1] = queued[i] end
end
return out
"""
)

#: Send to a group. ``group, sending host, lifetime of messages in ms, lifetime of a host in ms, sealed message``; the
#: answer is the number of hosts which have members but did not hear it, the channels that were full, and
#: channels with the number of expired messages that had to go.
SEND_GROUP = (
    _PRELUDE
    + """
local group, sender, lifetime = ARGV[2], ARGV[3], tonumber(ARGV[4])
local deaf, full, gone = 0, {}, {}
local reach = P .. 'reach:' .. group
for _, host in ipairs(redis.call('ZRANGEBYSCORE', reach, now, '+inf')) do
  if host ~= sender and redis.call('PUBLISH', P .. 'host:' .. host, 's' .. ARGV[6]) == 0 then
    local seen = redis.call('ZSCORE', P .. 'hosts', host)
    if seen and tonumber(seen) + tonumber(ARGV[5]) > now then
      deaf = deaf + 1
    else
      redis.call('ZREM', reach, host)
    end
  end
end
local key = P .. 'queued:' .. group
local queued = redis.call('HGETALL', key)
for i = 1, #queued, 2 do
  local member, ends, capacity = queued[i], string.match(queued[i + 1], '^(%d+):(%d+)$')
  if tonumber(ends) <= now then
    redis.call('HDEL', key, member)
  else
    local channel = string.match(member, '^[^!]+!') or member
    local done, old = put(channel, tonumber(capacity), lifetime, make('p', now + lifetime, member, ARGV[6]))
    if done == 0 then full[#full + 1] = member end
    if old > 0 then
      gone[#gone + 1] = channel
      gone[#gone + 1] = old
    end
  end
end
return {deaf, full, gone}
"""
)

#: Hosts which gave no sign of life: forget those that are dead. ``lifetime in ms, the same for one that does not
#: listen, hosts...``; the answer is their names and the number of messages each had in its hands.
BURY = (
    _PRELUDE
    + """
local out = {}
for i = 4, #ARGV do
  local seen = redis.call('ZSCORE', P .. 'hosts', ARGV[i])
  if seen then
    local listens = redis.call('PUBSUB', 'NUMSUB', P .. 'host:' .. ARGV[i])[2]
    local lifetime = tonumber(listens) == 0 and ARGV[3] or ARGV[2]
    if tonumber(seen) + tonumber(lifetime) <= now then
      out[#out + 1] = ARGV[i]
      out[#out + 1] = bury(ARGV[i])
    end
  end
end
return out
"""
)

#: A host leaves, in an orderly way. ``host``
LEAVE = _PRELUDE + "return bury(ARGV[2])"

#: One channel's figures. ``channel``; the answer is the messages so far, those refused, those that wait, and the
#: milliseconds that the oldest has left, or -1.
STATISTICS = (
    _PRELUDE
    + """
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
"""
)
