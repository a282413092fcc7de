/** The Worker as it is, but for a line in the log whenever the object of a conversation comes into memory. */
import type { Bindings } from "../../functions/context.ts";
import worker, { LiveConversation as Live } from "../../functions/index.ts";

export { StorageObject } from "../../functions/index.ts";

export class LiveConversation extends Live {
  constructor(ctx: DurableObjectState, env: Bindings) {
    super(ctx, env);
    console.log(JSON.stringify({ event: "object.constructed", conversationId: ctx.id.name }));
  }
}

export default worker;
