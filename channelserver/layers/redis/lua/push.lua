-- Puts one message into a channel.
-- Arguments: channel, capacity, lifetime in ms, kind of the item, name, sealed message.
-- Returns 1 if there was room, else 0; how many expired messages it dropped; and the books.
local ends = now + tonumber(ARGV[4])
local done, gone = put(ARGV[2], tonumber(ARGV[3]), make(ARGV[5], ends, ARGV[6], ARGV[7]))
return {done, gone, books()}
