-- Puts one message into a channel.
-- Arguments: host, number of its connection, number of the message, token or nothing, channel, capacity, lifetime in
-- ms, kind of the item, name, sealed message.
-- Returns 1 if there was room, else 0; how many expired messages it dropped; and the books.
if too_late(ARGV[2], ARGV[3]) then return {0, 0, books()} end
local done, gone = 1, 0
if not is_known(ARGV[5]) then
  done, gone = put(ARGV[6], tonumber(ARGV[7]), make(ARGV[9], now + tonumber(ARGV[8]), ARGV[10], ARGV[11]))
  note_known(ARGV[5], done)
end
note_sent(ARGV[2], ARGV[3], ARGV[4], done)
return {done, gone, books()}
