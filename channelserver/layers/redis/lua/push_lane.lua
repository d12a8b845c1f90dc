-- Puts one message into a lane.
-- Arguments: channel, capacity, lifetime in ms, lane, capacity of the lane (below 0: ignore both), sealed message.
-- Returns 1 if there was room, else 0; how many expired messages it dropped; and the books.
local done, gone = put_lane(ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6]), ARGV[7])
return {done, gone, books()}
