"""The reactor's side: sockets, HTTP, WebSocket, timers. Knows the channel layer, but no consumer and no Django."""
