/** A client that keeps some connections to a server busy, and wants every answer to be a 200. */
import { Agent, request as httpRequest } from "node:http";

export type Request = { method: "GET" | "POST"; path: string; json?: unknown };

/**
 * Sends requests, as many at a time as there are connections, which are kept alive from the first request to the
 * last. They do not outlive the call: workerd closes a connection that idles, and a request would meet its end.
 * Throws where an answer is no 200.
 */
export async function sendAll(
  url: string,
  requests: readonly Request[],
  { connections }: { connections: number },
): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: connections });
  const left = requests.values();
  const busy = async () => {
    for (const request of left) await send(url, request, agent);
  };
  try {
    await Promise.all(Array.from({ length: connections }, busy));
  } finally {
    agent.destroy();
  }
}

/** Resolves with the answer's text. Rejects where it is no 200. */
export function send(url: string, { method, path, json }: Request, agent: Agent): Promise<string> {
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
        if (answer.statusCode === 200) resolve(text);
        else reject(new Error(`${method} ${path} was answered with ${answer.statusCode}: ${text}`));
      });
    });
    outbound.once("error", reject);
    outbound.end(body);
  });
}
