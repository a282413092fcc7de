/** A relay as PartyServer's own example has it: what is posted to a room goes to whoever is connected to it. */

import { join } from "node:path";
import { build } from "esbuild";
import type { Script } from "./workers.ts";

const SOURCE = `
import { routePartykitRequest, Server } from "partyserver";
export class Relay extends Server {
  static options = { hibernate: true };
  async onRequest(request) {
    this.broadcast(await request.text());
    return new Response("ok");
  }
}
export default {
  fetch: async (request, env) =>
    (await routePartykitRequest(request, env)) ?? new Response("not found", { status: 404 }),
};`;

export async function partyScript(): Promise<Script> {
  const { outputFiles } = await build({
    stdin: { contents: SOURCE, resolveDir: join(import.meta.dirname, "peers") },
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    target: "es2022",
    conditions: ["workerd", "browser"],
    external: ["cloudflare:*", "node:*"],
  });
  return { name: "bare", source: outputFiles[0]?.text ?? "", objects: { Relay: "Relay" } };
}
