/** Our own storage under one typed record, for `stores.ts`. */
import * as v from "valibot";
import { createLogger } from "../lib/log.ts";
import { createUpstashStorage } from "../lib/storage/upstash.ts";
import { createTtlStore } from "../lib/ttl-store.ts";
// @ts-expect-error Shared with the peers, which have no types.
import { measure } from "./peers/measure.mjs";

const { REST_URL: url = "", REST_TOKEN: token = "" } = process.env;
const records = createTtlStore({
  storage: createUpstashStorage({ url, token }),
  log: createLogger({ now: () => Date.now() }),
  keyOf: (id) => `bench:${id}`,
  schema: v.looseObject({ city: v.string() }),
  ttlSeconds: 600,
  policy: "on-write",
});

await measure({ set: records.set, get: records.get });
