-- Takes messages.
-- Arguments: host, number of its connection, how many, 1 to wake the host later if there are fewer, 1 if the host will
-- report what it has consumed, channels... Messages are kept until then: for the next connection if this one is lost,
-- and, with a "+" before the channel, for another worker if the host dies.
-- Returns a list of messages, five items each (channel, milliseconds left, lane or reply channel or nothing, sealed
-- message, id); a list of channels with the number of expired messages it dropped there; and the books.
local host, wanted, holds = ARGV[2], tonumber(ARGV[4]), ARGV[6] == '1'
if too_late(host, ARGV[3]) then return {{}, {}, books()} end
local out, gone, taken, dropped = {}, {}, 0, 0
epoch()
local id = redis.call('HINCRBY', B, 'serial', wanted) - wanted
local function take(word)
  local channel = string.gsub(word, '^%+', '')
  while true do
    local item = redis.call('LPOP', P .. 'q:' .. channel)
    if not item then return false end
    local reply, lane = '', false
    if string.sub(item, 1, 1) == 'L' then
      lane = string.sub(item, 2)
      drop_token(channel)
      reply = lane
      item = redis.call('LPOP', P .. 'lane:' .. lane)
      if item then shrink(channel) end
    end
    if item then
      local left = ends_of(item) - now
      if left <= 0 then
        gone[channel] = (gone[channel] or 0) + 1
        dropped = dropped + 1
        item_over(item)
        if lane then advance(lane) end
      else
        local name = name_of(item)
        if string.sub(item, 1, 1) == 't' then
          reply, name = name, channel
        end
        -- Moved here from elsewhere by hand: whoever opens it will find another name in it.
        if (string.match(name, '^[^!]+!') or name) ~= channel then name = channel end
        id = id + 1
        local number = string.format('%.0f', id)
        if holds then
          redis.call('HSET', P .. 'held:' .. host, number, word .. ' ' .. reply)
          redis.call('HSET', P .. 'kept:' .. host, number, item)
          if lane then redis.call('HSET', P .. 'busy', lane, number) end
        else
          item_over(item)
          if lane then advance(lane) end
        end
        out[#out + 1] = name
        out[#out + 1] = string.format('%.0f', left)
        out[#out + 1] = reply
        out[#out + 1] = rest_of(item)
        out[#out + 1] = number
        return true
      end
    end
  end
end
local any = true
while any and taken < wanted do
  any = false
  for i = 7, #ARGV do
    if taken < wanted and take(ARGV[i]) then
      taken = taken + 1
      any = true
    end
  end
end
if taken + dropped > 0 then shift(-taken - dropped, holds and taken or 0) end
if taken < wanted and ARGV[5] == '1' then
  for i = 7, #ARGV do redis.call('SADD', P .. 'idle:' .. string.gsub(ARGV[i], '^%+', ''), host) end
end
local lost = {}
for channel, number in pairs(gone) do
  lost[#lost + 1] = channel
  lost[#lost + 1] = number
end
return {out, lost, books()}
