-- The host that was woken has no idle thread any more: wakes another one.
-- Arguments: channel.
if redis.call('LLEN', P .. 'q:' .. ARGV[2]) > 0 then wake(ARGV[2]) end
return 1
