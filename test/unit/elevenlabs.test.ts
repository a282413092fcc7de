/** Signed URLs: where they are fetched, and which of them are believed. Conversations are opened in `test/worker/proxy.test.ts`. */
import type { ServerResponse } from "node:http";
import { afterEach, expect, test } from "vitest";
import { fetchSignedUrl } from "../../lib/elevenlabs.ts";
import { startProvider, type TestProvider } from "../support/provider.ts";

let provider: TestProvider;
afterEach(() => provider.close());

const API_KEY = "el-key-0123456789";

async function ask(answer?: (response: ServerResponse, signedUrl: string) => void) {
  provider = await startProvider(answer === undefined ? {} : { answer });
  return fetchSignedUrl({ apiKey: API_KEY, apiUrl: provider.url }, "agent_1");
}

test("is asked for with the key, and given as it is signed", async () => {
  const { host } = new URL(((await ask()) as { signedUrl: string }).signedUrl);
  expect(`http://${host}`).toBe(provider.url);
  expect(provider.asked).toMatchObject([
    {
      path: "/v1/convai/conversation/get-signed-url?agent_id=agent_1",
      headers: { "xi-api-key": API_KEY },
    },
  ]);
});

test.each<[string, (url: string) => string]>([
  ["at another host", () => "wss://evil.example/v1/convai/conversation?agent_id=a"],
  ["at a host that looks alike", () => "wss://api.elevenlabs.io.evil.example/"],
  ["at another port", (url) => url.replace(/:\d+\//, ":1/")],
  ["in the clear elsewhere", () => "ws://api.elevenlabs.io/v1/convai/conversation"],
  ["of another scheme", (url) => url.replace("ws:", "http:")],
  ["with a user", (url) => url.replace("ws://", "ws://user:password@")],
  ["with a fragment", (url) => `${url}#x`],
  ["that is none", () => "conversation"],
])("%s is refused", async (_where, change) => {
  const answer = await ask((response, url) => response.end(JSON.stringify({ signed_url: change(url) })));
  expect(answer).toEqual({ failure: "refused", status: 200 });
});

test("at a residency of ElevenLabs is believed", async () => {
  const signedUrl = "wss://api.eu.residency.elevenlabs.io/v1/convai/conversation?agent_id=a&x=%2F";
  expect(await ask((response) => response.end(JSON.stringify({ signed_url: signedUrl })))).toEqual({
    signedUrl,
  });
});

test.each<[string, (response: ServerResponse, signedUrl: string) => void, object]>([
  ["401", (response) => response.writeHead(401).end("{}"), { failure: "refused", status: 401 }],
  ["404", (response) => response.writeHead(404).end(), { failure: "refused", status: 404 }],
  ["429", (response) => response.writeHead(429).end(), { failure: "unreachable", status: 429 }],
  ["500", (response) => response.writeHead(500).end("oops"), { failure: "unreachable", status: 500 }],
  ["text", (response) => response.end("<html>"), { failure: "refused", status: 200 }],
  ["an array", (response) => response.end("[]"), { failure: "refused", status: 200 }],
  ["another object", (response) => response.end('{"signed_url":1}'), { failure: "refused", status: 200 }],
  [
    "a body without end",
    (response, url) => {
      const more = () => response.write("x".repeat(16_384)) && setImmediate(more);
      response.on("drain", more);
      response.write(`{"signed_url":${JSON.stringify(url)},"more":"`);
      more();
    },
    { failure: "refused", status: 200 },
  ],
  [
    "a connection that breaks",
    (response) => {
      response.write('{"signed_url":"');
      response.socket?.destroy();
    },
    { failure: "unreachable" },
  ],
])("an answer that is %s gives none", async (_name, answer, failure) => {
  expect(await ask(answer)).toEqual(failure);
});

test("a redirect is not followed, so that the key goes nowhere else", async () => {
  const other = await startProvider();
  try {
    const answer = await ask((response) =>
      response.writeHead(302, { location: `${other.url}/v1/convai/conversation/get-signed-url` }).end(),
    );
    expect(answer).toEqual({ failure: "refused", status: 302 });
    expect(other.asked).toEqual([]);
  } finally {
    await other.close();
  }
});

test("one that does not come is given up after five seconds", async () => {
  const start = Date.now();
  expect(await ask(() => {})).toEqual({ failure: "unreachable" });
  expect(Date.now() - start).toBeGreaterThan(4_900);
  expect(Date.now() - start).toBeLessThan(5_500);
});
