-- Takes messages.
-- Arguments: host, how many, 1 to wake the host later if there are fewer, channels...
-- Returns a list of messages, four items each (channel, milliseconds left, reply channel or nothing, sealed message),
-- and a list of channels with the number of expired messages it dropped there.
local host, wanted = ARGV[2], tonumber(ARGV[3])
local out, gone, taken = {}, {}, 0
local function take(channel)
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
