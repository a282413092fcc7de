/** The Worker: the fetch handler and the Durable Object it stores in. */
import { app } from "./app.ts";

export { StorageObject } from "../lib/storage/storage-object.ts";
export default { fetch: app.fetch };
