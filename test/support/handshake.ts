/** The handshake of a WebSocket, held against the document like every other answer. */
import type { IncomingMessage } from "node:http";
import type { WebSocket } from "ws";
import { requireContract } from "./contract.ts";

/** Resolves when the socket is open; rejects with the status where it is refused, and where the answer is not as it is described. */
export function handshake(socket: WebSocket): Promise<void> {
  const path = new URL(socket.url).pathname;
  const describe = ({ statusCode: status = 0, rawHeaders }: IncomingMessage, text: string | null) =>
    requireContract({ method: "GET", path, status, headers: headersOf(rawHeaders), text });
  return new Promise((resolve, reject) => {
    const attempt = (check: () => void) => {
      try {
        check();
      } catch (error) {
        reject(error);
      }
    };
    socket.once("upgrade", (response) => attempt(() => describe(response, null)));
    socket.once("open", resolve);
    socket.once("unexpected-response", async (_request, response) => {
      const chunks: Buffer[] = [];
      for await (const chunk of response) chunks.push(chunk as Buffer);
      attempt(() => describe(response, Buffer.concat(chunks).toString()));
      reject(new Error(`refused with ${response.statusCode}`));
    });
    socket.once("error", reject);
  });
}

function headersOf(raw: readonly string[]): Headers {
  const headers = new Headers();
  for (let i = 0; i < raw.length; i += 2) headers.append(raw[i] ?? "", raw[i + 1] ?? "");
  return headers;
}
