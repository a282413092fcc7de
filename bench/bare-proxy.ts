/**
 * The bare proxy: an object that opens one agent conversation for one page and passes frames both ways. It reads
 * nothing in them, registers nothing, and looks after nothing.
 *
 * It runs in workerd as it stands here, without its types, so it imports nothing but the runtime.
 */
import { DurableObject } from "cloudflare:workers";

type Env = { ELEVENLABS_API_URL: string; LIVE_CONVERSATIONS: DurableObjectNamespace<LiveConversation> };

const SUBPROTOCOL = { "sec-websocket-protocol": "convai" };

export class LiveConversation extends DurableObject<Env> {
  override async fetch(): Promise<Response> {
    const headers = { ...SUBPROTOCOL, Upgrade: "websocket" };
    const { webSocket: provider } = await fetch(this.env.ELEVENLABS_API_URL, { headers });
    if (!provider) throw new Error("the agent took no connection");
    const { 0: page, 1: socket } = new WebSocketPair();
    provider.accept();
    socket.accept();
    provider.addEventListener("message", ({ data }) => socket.send(data));
    socket.addEventListener("message", ({ data }) => provider.send(data));
    return new Response(null, { status: 101, webSocket: page, headers: SUBPROTOCOL });
  }
}

export default {
  fetch(request, { LIVE_CONVERSATIONS: objects }): Promise<Response> {
    return objects.get(objects.idFromName(new URL(request.url).pathname)).fetch(request);
  },
} satisfies ExportedHandler<Env>;
