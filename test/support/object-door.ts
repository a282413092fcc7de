/**
 * The Worker's Durable Objects, reached over HTTP through a Worker that only passes calls on. An object with
 * a stub in this process is in use and cannot be evicted from memory; behind this door it can, between any
 * two calls.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { inject } from "vitest";
import type { DurableObjectStorageOptions } from "../../lib/storage/durable-object.ts";
import { LOCAL_BINDINGS } from "./worker.ts";

const SCRIPT = "door";
const CLASS = "StorageObject";

/** JSON has neither, and calls carry both. */
const encode = (value: unknown) =>
  JSON.stringify(value, (_, part: unknown) =>
    part === undefined || part === Number.POSITIVE_INFINITY ? { special: String(part) } : part,
  );
const decode = (text: string): unknown =>
  JSON.parse(text, (_, part) =>
    part?.special === "undefined" ? undefined : part?.special === "Infinity" ? Infinity : part,
  );

const DOOR = `
export { ${CLASS} } from "./index.js";
const encode = ${encode};
const decode = ${decode};
export default {
  async fetch(request, { STORAGE_OBJECTS }) {
    const { name, method, args } = decode(await request.text());
    const stub = STORAGE_OBJECTS.get(STORAGE_OBJECTS.idFromName(name));
    return new Response(encode({ result: await stub[method](...args) }));
  },
};`;

export type ObjectDoor = {
  /** As the binding of the Worker, for methods that a driver calls. */
  namespace: DurableObjectStorageOptions["namespace"];
  /** Evicts an object from memory; nothing happens where it is not there. */
  evict(partition: string): Promise<void>;
  close(): Promise<void>;
};

/** Starts the built Worker's objects behind the door. */
export async function startObjectDoor(): Promise<ObjectDoor> {
  const directory = inject("bundleDirectory");
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      name: SCRIPT,
      modules: [
        { type: "ESModule", path: join(directory, "door.js"), contents: DOOR },
        {
          type: "ESModule",
          path: join(directory, "index.js"),
          contents: readFileSync(join(directory, "index.js"), "utf8"),
        },
      ],
      modulesRoot: directory,
      compatibilityDate: "2026-11-17",
      bindings: LOCAL_BINDINGS,
      durableObjects: { STORAGE_OBJECTS: { className: CLASS, useSQLite: true } },
    }),
  );
  await miniflare.ready;

  const stubOf = (name: string) =>
    new Proxy(
      {},
      {
        get:
          (_, method) =>
          async (...args: unknown[]) => {
            const body = encode({ name, method, args });
            const response = await miniflare.dispatchFetch("http://door/", { method: "POST", body });
            const text = await response.text();
            if (!response.ok) throw new Error(text);
            return (decode(text) as { result: unknown }).result;
          },
      },
    );
  return {
    namespace: {
      idFromName: (name: string) => name,
      get: stubOf,
    } as unknown as ObjectDoor["namespace"],
    evict: (name) =>
      miniflare.unsafeEvictDurableObject(SCRIPT, CLASS, { name }).catch((error: unknown) => {
        if (!String(error).includes("not currently running")) throw error;
      }),
    close: () => miniflare.dispose(),
  };
}
