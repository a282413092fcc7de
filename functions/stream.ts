/** `…/:id/stream`: a page holds a line to its conversation. */
import { Hono } from "hono/tiny";
import { InvalidRequestError } from "../lib/errors.ts";
import { conversationIdOf } from "../lib/keys.ts";
import { RELAY_SUBPROTOCOL } from "../lib/live/relay-protocol.ts";
import { requireConversationAccess, requireWebSocket, subprotocolsOf } from "./auth.ts";
import type { AppEnv } from "./context.ts";
import { limitConversation } from "./rate-limit.ts";

export const streams = new Hono<AppEnv>().get(
  "/:id/stream",
  requireWebSocket,
  requireConversationAccess,
  async (c) => {
    const conversationId = conversationIdOf(c.req.param("id"));
    await limitConversation(c, "session", conversationId);
    if (!subprotocolsOf(c).includes(RELAY_SUBPROTOCOL)) {
      throw new InvalidRequestError("The WebSocket must offer the subprotocol of the line.", [
        { path: "sec-websocket-protocol", message: `must offer ${RELAY_SUBPROTOCOL}` },
      ]);
    }
    const webSocket = await c.var.core.live.openLine(conversationId, c.var.caller);
    const headers = { "sec-websocket-protocol": RELAY_SUBPROTOCOL };
    return new Response(null, { status: 101, webSocket, headers });
  },
);
