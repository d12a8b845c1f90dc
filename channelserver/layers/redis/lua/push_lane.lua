-- Puts one message into a lane.
-- Arguments: host, number of its connection, number of the message, token or nothing, channel, capacity, lifetime in
-- ms, lane, capacity of the lane (below 0: ignore both), sealed message.
-- Returns 1 if there was room, else 0; how many expired messages it dropped; and the books.
if too_late(ARGV[2], ARGV[3]) then return {0, 0, books()} end
local done, gone = 1, 0
if not is_known(ARGV[5]) then
  done, gone = put_lane(ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9], tonumber(ARGV[10]), ARGV[11])
  note_known(ARGV[5], done)
end
note_sent(ARGV[2], ARGV[3], ARGV[4], done)
return {done, gone, books()}
