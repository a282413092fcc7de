/** A client that keeps some connections to a server busy, and wants every answer to be what was expected. */
import { Agent, request as httpRequest } from "node:http";

export type Request = {
  method: "GET" | "POST" | "PUT" | "PATCH";
  path: string;
  json?: unknown;
  /** Default: 200. */
  status?: number;
};

/**
 * Sends requests, as many at a time as there are connections, which are kept alive from the first request to the
 * last. They do not outlive the call: workerd closes a connection that idles, and a request would meet its end.
 * Resolves with how long each took, in ms. Throws where an answer is not what was expected.
 */
export async function sendAll(
  url: string,
  requests: readonly Request[],
  { connections }: { connections: number },
): Promise<number[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: connections });
  const left = requests.values();
  const times: number[] = [];
  const busy = async () => {
    for (const request of left) {
      const begin = performance.now();
      await send(url, request, agent);
      times.push(performance.now() - begin);
    }
  };
  try {
    await Promise.all(Array.from({ length: connections }, busy));
    return times;
  } finally {
    agent.destroy();
  }
}

/** Resolves with the answer's text. Rejects where its status is another than expected. */
export function send(
  url: string,
  { method, path, json, status = 200 }: Request,
  agent: Agent,
): Promise<string> {
  const body = json === undefined ? "" : JSON.stringify(json);
  const headers =
    json === undefined
      ? {}
      : { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
  return new Promise((resolve, reject) => {
    const outbound = httpRequest(`${url}${path}`, { method, headers, agent }, (answer) => {
      let text = "";
      answer.on("data", (chunk) => {
        text += chunk;
      });
      answer.once("error", reject);
      answer.once("end", () => {
        if (answer.statusCode === status) resolve(text);
        else reject(new Error(`${method} ${path} was answered with ${answer.statusCode}: ${text}`));
      });
    });
    outbound.once("error", reject);
    outbound.end(body);
  });
}
