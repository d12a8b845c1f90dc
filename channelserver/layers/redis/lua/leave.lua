-- A host leaves.
-- Arguments: host.
return forget_host(ARGV[2])
