channel_routing = []
