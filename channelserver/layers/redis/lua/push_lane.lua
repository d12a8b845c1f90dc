-- Puts one message into a lane.
-- Arguments: host, number of its connection, number of the message, token or nothing, 1 if the host has a copy;
-- channel, capacity, lifetime in ms, lane, capacity of the lane (below 0: ignore both), sealed message.
-- Returns as push.lua does.
if too_late(ARGV[2], ARGV[3]) then return {0, 0, books()} end
local host, number, channel = ARGV[2], ARGV[4], ARGV[7]
local done, gone = 1, 0
if not is_known(ARGV[5]) then
  local copied = is_copied(channel, ARGV[6])
  local data = mark_copied(copied, host, number, ARGV[12])
  done, gone = put_lane(channel, tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10], tonumber(ARGV[11]), data)
  note_known(ARGV[5], done)
  done = noted(copied, host, number, done)
end
note_sent(host, ARGV[3], number, done)
return {done, gone, books()}
