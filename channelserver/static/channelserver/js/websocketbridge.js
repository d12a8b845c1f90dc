/* The browser's side of channelserver, as an ES module:

     import { WebSocketBridge } from "/static/channelserver/js/websocketbridge.js";

   The code is in the file that has its place since Channels 1, because a classic script cannot import a module. */

import "../../channels/js/websocketbridge.js";

export const { ReconnectingWebSocket, WebSocketBridge } = globalThis.channels;
