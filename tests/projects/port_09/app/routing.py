channel_routing = {
    "http.request": "app.consumers.http_consumer",
    "websocket.connect": "app.consumers.ws_connect",
    "websocket.receive": "app.consumers.ws_message",
    "websocket.disconnect": "app.consumers.ws_disconnect",
    "chat-messages": "app.consumers.msg_consumer",
}
