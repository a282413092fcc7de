/** Signed messages, to a server that answers as servers do. In the Worker's runtime: `test/worker/receipts.test.ts`. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, test } from "vitest";
import { type PostOutcome, postSigned } from "../../lib/outbound.ts";
import { OUTBOUND_SECRET } from "../support/secrets.ts";

let close = () => {};
afterEach(() => close());

async function post(
  answer: (response: ServerResponse, request: IncomingMessage) => void,
  { deadlineMs = 5_000, id = "msg_1" } = {},
) {
  const received: { headers: IncomingMessage["headers"]; method?: string; body: string }[] = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request.setEncoding("utf8")) body += chunk;
    const { headers, method = "" } = request;
    received.push({ headers, method, body });
    answer(response, request);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  close = () => {
    server.closeAllConnections();
    server.close();
  };
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`;
  const now = () => 1_614_265_330_999;
  return {
    posted: await postSigned({ url, secret: OUTBOUND_SECRET, id, body: '{"a":1}', now, deadlineMs }),
    received,
  };
}

test("a message is posted once, as JSON, signed with whole seconds", async () => {
  const { posted, received } = await post((response) => response.writeHead(204).end());
  expect(posted).toEqual({ outcome: "accepted", status: 204 });
  expect(received).toMatchObject([
    {
      method: "POST",
      body: '{"a":1}',
      headers: {
        "content-type": "application/json",
        "webhook-id": "msg_1",
        "webhook-timestamp": "1614265330",
        "webhook-signature": expect.stringMatching(/^v1,/),
      },
    },
  ]);
});

test.each<[number, PostOutcome]>([
  [200, "accepted"],
  [202, "accepted"],
  [301, "refused"],
  [307, "refused"],
  [400, "refused"],
  [401, "refused"],
  [404, "refused"],
  [410, "refused"],
  [408, "unconfirmed"],
  [425, "unconfirmed"],
  [429, "unconfirmed"],
  [500, "unconfirmed"],
  [503, "unconfirmed"],
  [522, "unconfirmed"],
  [521, "unreachable"],
  [530, "unreachable"],
])("%i is %s", async (status, outcome) => {
  const { posted } = await post((response) => response.writeHead(status, { location: "/elsewhere" }).end());
  expect(posted).toEqual({ outcome, status });
});

test("a redirect is not followed", async () => {
  const { received } = await post((response) => response.writeHead(307, { location: "/elsewhere" }).end());
  expect(received).toHaveLength(1);
});

test("an answer that never ends is an answer all the same, and is not read", async () => {
  let written = 0;
  const { posted } = await post((response) => {
    const more = () => {
      written += 65_536;
      if (response.write("x".repeat(65_536))) setImmediate(more);
      else response.once("drain", more);
    };
    more();
    response.once("close", () => {
      written = -1;
    });
  });
  expect(posted).toEqual({ outcome: "accepted", status: 200 });
  await expect.poll(() => written).toBe(-1);
});

test.each<[string, (response: ServerResponse, request: IncomingMessage) => void]>([
  ["hangs", () => {}],
  ["hangs behind its first line", (response) => response.socket?.write("HTTP/1.1 200 OK\r\n")],
  ["hangs up", (_response, request) => request.socket.destroy()],
  ["answers nonsense", (response) => response.socket?.end("I am no HTTP\r\n\r\n")],
])("whoever %s may have taken it", async (_what, answer) => {
  const { posted } = await post(answer, { deadlineMs: 200 });
  expect(posted).toEqual({ outcome: "unconfirmed" });
});

test("what cannot be signed is not sent", async () => {
  const { posted, received } = await post((response) => response.end(), { id: "not an id" });
  expect(posted).toEqual({ outcome: "unreachable" });
  expect(received).toEqual([]);
});
