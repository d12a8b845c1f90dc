-- Puts one message into a channel.
-- Arguments: host, number of its connection, number of the message, token or nothing, 1 if the host has a copy;
-- channel, capacity, lifetime in ms, kind of the item, name, sealed message.
-- Returns 1 if there was room, 2 if the host is to keep a copy, else 0; how many expired messages it dropped; and the
-- books.
if too_late(ARGV[2], ARGV[3]) then return {0, 0, books()} end
local host, number, channel = ARGV[2], ARGV[4], ARGV[7]
local done, gone = 1, 0
if not is_known(ARGV[5]) then
  local copied = is_copied(channel, ARGV[6])
  local data = mark_copied(copied, host, number, ARGV[12])
  done, gone = put(channel, tonumber(ARGV[8]), make(ARGV[10], now + tonumber(ARGV[9]), ARGV[11], data))
  note_known(ARGV[5], done)
  done = noted(copied, host, number, done)
end
note_sent(host, ARGV[3], number, done)
return {done, gone, books()}
