/** A receiver of receipts: a server of its own, which answers for each conversation as a test wants it to. */
import { createServer, type IncomingHttpHeaders, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** What is answered: a status, nothing at all, or no HTTP. */
export type ReceiverBehaviour = number | "hangs" | "hangs_up" | "nonsense";

export type ReceivedReceipt = {
  at: number;
  path: string;
  headers: IncomingHttpHeaders;
  body: string;
  type: string;
  data: { conversationId: string; requestId?: string; [field: string]: unknown };
};

export type TestReceiver = Awaited<ReturnType<typeof startReceiver>>;

export async function startReceiver() {
  const received: ReceivedReceipt[] = [];
  /** What each conversation is answered next, one after the other; the last one stays. Without any, 204. */
  const behaviours = new Map<string, ReceiverBehaviour[]>();

  function answer(response: ServerResponse, behaviour: ReceiverBehaviour): void {
    if (behaviour === "hangs") return;
    if (behaviour === "hangs_up") return void response.socket?.destroy();
    if (behaviour === "nonsense") return void response.socket?.end("I am no HTTP\r\n\r\n");
    response.writeHead(behaviour, { location: "/elsewhere" }).end();
  }

  const server = createServer(async (request, response) => {
    const at = Date.now();
    let body = "";
    for await (const chunk of request.setEncoding("utf8")) body += chunk;
    const receipt = JSON.parse(body) as Pick<ReceivedReceipt, "type" | "data">;
    received.push({ at, path: request.url ?? "", headers: request.headers, body, ...receipt });
    const next = behaviours.get(receipt.data.conversationId) ?? [];
    answer(response, (next.length > 1 ? next.shift() : next[0]) ?? 204);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));

  const of = (conversationId: string) =>
    received.filter(({ data }) => data.conversationId === conversationId);
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/receipts?token=c4nary-of-the-url`,
    behaviours,
    of,
    /** Resolves with the receipts of a conversation when there are so many; rejects after `ms`. */
    async received(conversationId: string, count: number, ms = 5_000): Promise<ReceivedReceipt[]> {
      for (const end = Date.now() + ms; of(conversationId).length < count; ) {
        if (Date.now() > end) throw new Error(`only ${JSON.stringify(of(conversationId))} came`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      return of(conversationId);
    },
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}
