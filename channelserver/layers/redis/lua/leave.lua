-- A host leaves.
-- Arguments: host, lifetime of messages in ms, most deaths of a message.
-- Returns what became of its messages, as forget_host() tells.
return forget_host(ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), nil)
