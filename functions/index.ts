/** The Worker: the fetch handler and the Durable Object it stores in. */
import { StorageObject as StoragePartition } from "../lib/storage/storage-object.ts";
import { app } from "./app.ts";
import { configOf, primaryOf } from "./compose.ts";
import type { Bindings } from "./context.ts";

/** One partition, which knows what it stands by for. */
export class StorageObject extends StoragePartition<Bindings> {
  protected override readonly primary = this.#primary();

  #primary() {
    const parsed = configOf(this.env);
    return parsed.ok ? primaryOf(parsed.config) : null;
  }
}

export default { fetch: app.fetch };
