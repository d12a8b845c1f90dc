-- Tells which of the messages that a host has copies of are neither waiting nor held by a host.
-- Arguments: host, numbers...
-- Returns these numbers, and the books.
local missing = {}
for i = 3, #ARGV do
  if redis.call('HEXISTS', P .. 'copies:' .. ARGV[2], ARGV[i]) == 0 then missing[#missing + 1] = ARGV[i] end
end
return {missing, books()}
