channel_routing = {}
