/** Who is there while operations are measured: the agent that is dialled, the provider, the runner of tools, the pages. */
import { createServer } from "node:http";
import { WebSocket } from "ws";
import { startAgent } from "../test/support/agent.ts";
import { metadata, type ProviderConversation, startProvider } from "../test/support/provider.ts";
import { connectPage } from "../test/support/proxied-page.ts";
import { sendAll } from "./load.ts";
import { agentSessionOf, type Batch, fresh, furnish, type Operation } from "./operations.ts";
import { AGENT_ID, agentBindings } from "./workers.ts";

export const CONNECTIONS = 16;
/** Each is a file of its own in a subject that has objects. */
const [KNOWN, LINES, PROXIED, QUIET] = [100, 40, 40, 100];
const SIGNING_SECRET = `whsec_${Buffer.from("a-secret-that-signs-nothing-else").toString("base64")}`;

/** What every subject talks to. */
export type Outside = Awaited<ReturnType<typeof startOutside>>;

export async function startOutside(redisUrl: string) {
  const agent = await startAgent();
  const provider = await startProvider({ greet: listen });
  const runner = createServer((request, response) => {
    request.resume();
    request.once("end", () => response.writeHead(202).end());
  });
  await new Promise<void>((resolve) => runner.listen(0, "127.0.0.1", resolve));
  const { port } = runner.address() as { port: number };
  const runnerUrl = `http://127.0.0.1:${port}/run`;
  return {
    redisUrl,
    token: "a-token-that-opens-nothing-else",
    agentUrl: agent.url,
    runnerUrl,
    signingSecret: SIGNING_SECRET,
    bindings: {
      ...agentBindings(provider.url),
      TOOL_RUNNER_URL: runnerUrl,
      SIGNING_SECRET,
    },
    async close(): Promise<void> {
      runner.closeAllConnections();
      runner.close();
      await agent.close();
      await provider.close();
    },
  };
}

/** The provider shows that it is there when it is told something, as it has to for a push to be delivered. */
function listen({ agentSessionId, say, socket }: ProviderConversation): void {
  say(metadata(agentSessionId));
  socket.on("message", (data) => {
    if (String(data).includes("request task_")) say({ type: "ping", ping_event: { event_id: 1 } });
  });
}

/** Called when a page has been told a result, with its requestId. */
export type Told = (requestId: string) => void;

/** Attaches a page that acknowledges what it is told. Resolves when it is welcome. */
export async function attachPage(url: string, conversationId: string, told: Told = () => {}): Promise<void> {
  const address = `${url.replace("http", "ws")}/agent-conversations/api/${conversationId}/stream`;
  const socket = new WebSocket(address, ["agent-session.v1"], { perMessageDeflate: false });
  const send = (frame: object) => socket.send(JSON.stringify(frame));
  const { promise: welcome, resolve, reject } = Promise.withResolvers<void>();
  socket.on("error", reject);
  socket.on("open", () => send({ type: "hello", agentSessionId: agentSessionOf(conversationId) }));
  socket.on("message", (data) => {
    const { type, requestIds = [] } = JSON.parse(String(data)) as { type: string; requestIds?: string[] };
    if (type === "welcome") resolve();
    if (type !== "push") return;
    for (const requestId of requestIds) told(requestId);
    send({ type: "ack", requestIds });
  });
  await welcome;
}

/** The conversations of one subject, furnished as its operations want to find them. */
export type Place = { batch: (operation: Operation) => Batch; send: Batch["send"]; url: string };

export type PlaceOptions = {
  url: string;
  /** Stands before every id. */
  prefix: string;
  agentUrl: string;
  /** Which of its doors the subject has. */
  has: { lines: boolean; proxy: boolean; stores: boolean };
  /** How many conversations of each kind; as many as are measured by default. */
  few?: boolean;
};

export async function startPlace({ url, prefix, agentUrl, has, few = false }: PlaceOptions): Promise<Place> {
  const counts = few
    ? { known: 1, lines: 1, proxied: 1, quiet: 1 }
    : { known: KNOWN, lines: LINES, proxied: PROXIED, quiet: QUIET };
  const send: Batch["send"] = (requests) => sendAll(url, requests, { connections: few ? 1 : CONNECTIONS });
  const place: Place = {
    url,
    send,
    batch({ over }) {
      const ids: string[] = [];
      const conversationId =
        over === "new"
          ? (i: number) => {
              ids[i] ??= fresh(`${prefix}_new`);
              return ids[i];
            }
          : (i: number) => `${prefix}_${over}_${i % counts[over]}`;
      return { conversationId, agentUrl, send };
    },
  };
  const of = (over: Operation["over"]) => place.batch({ over } as Operation).conversationId;
  if (has.lines) for (let i = 0; i < counts.lines; i++) await attachPage(url, of("lines")(i));
  if (has.proxy)
    for (let i = 0; i < counts.proxied; i++)
      await connectPage(new URL(url), of("proxied")(i), { agentId: AGENT_ID });
  if (has.stores) await furnish({ conversationId: of("known"), agentUrl, send }, counts, of("lines"));
  return place;
}
