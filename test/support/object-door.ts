/**
 * The Worker's storage objects, reached over HTTP through a Worker that only passes calls on. An object with a
 * stub in this process is in use and cannot be evicted from memory; behind this door it can, between any two
 * calls.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { inject } from "vitest";
import type { RecordObjects } from "../../lib/storage/durable-object.ts";
import { LOCAL_BINDINGS } from "./worker.ts";

const SCRIPT = "door";
const CLASS = "StorageObject";
const LIVE_CLASS = "LiveConversation";

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
import { ${CLASS} as Inside } from "./index.js";
export { ${LIVE_CLASS} } from "./index.js";
export class ${CLASS} extends Inside {
  alarmAt() {
    return this.ctx.storage.getAlarm();
  }
}
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
  namespace: RecordObjects;
  /** Evicts an object from memory; nothing happens where it is not there. */
  evict(name: string): Promise<void>;
  /** How many rows a table has in an object, seen from inside; null where the object has no such table. */
  rowsIn(name: string, table: string): Promise<number | null>;
  /** When the object is woken next, in ms since the epoch; null where it is not. */
  alarmAt(name: string): Promise<number | null>;
  close(): Promise<void>;
};

export type ObjectDoorOptions = {
  /** The configuration of the Worker. Default: embedded storage. */
  bindings?: Record<string, string>;
  /** Keeps what the objects store in this directory, so that it is there when they are started again. */
  directory?: string;
};

/** Starts the built Worker's objects behind the door. */
export async function startObjectDoor({
  bindings = LOCAL_BINDINGS,
  directory: persisted,
}: ObjectDoorOptions = {}): Promise<ObjectDoor> {
  const directory = inject("bundleDirectory");
  const miniflare = new Miniflare({
    ...convertV4MiniflareOptions({
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
      bindings,
      durableObjects: {
        STORAGE_OBJECTS: { className: CLASS, useSQLite: true },
        LIVE_CONVERSATIONS: { className: LIVE_CLASS, useSQLite: true },
      },
    }),
    unsafeInspectDurableObjects: true,
    ...(persisted === undefined ? {} : { resourcePersistencePath: persisted }),
  });
  await miniflare.ready;

  const stubOf = (name: string) =>
    new Proxy({} as Record<string, (...args: unknown[]) => Promise<unknown>>, {
      get:
        (_, method) =>
        async (...args: unknown[]) => {
          const body = encode({ name, method, args });
          const response = await miniflare.dispatchFetch("http://door/", { method: "POST", body });
          const text = await response.text();
          if (!response.ok) throw new Error(text);
          return (decode(text) as { result: unknown }).result;
        },
    });
  return {
    namespace: { idFromName: (name: string) => name, get: stubOf } as unknown as RecordObjects,
    evict: (name) =>
      miniflare.unsafeEvictDurableObject(SCRIPT, CLASS, { name }).catch((error: unknown) => {
        if (!String(error).includes("not currently running")) throw error;
      }),
    async rowsIn(name, table) {
      const sql = await miniflare.unsafeGetDurableObjectStorage(SCRIPT, CLASS, { name });
      const tables = await sql.exec("SELECT 1 FROM sqlite_master WHERE name = ?", table);
      if (tables.length === 0) return null;
      const [row] = await sql.exec<{ rows: number }>(`SELECT count(*) AS rows FROM ${table}`);
      return row?.rows ?? null;
    },
    alarmAt: async (name) => (await stubOf(name).alarmAt?.()) as number | null,
    close: () => miniflare.dispose(),
  };
}
