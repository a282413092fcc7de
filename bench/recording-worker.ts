/**
 * Stands in front of a Worker, ours or the bare one, and counts what cannot be seen from outside: the calls of
 * objects, and the rows that a conversation's object has written. Only for the recording; what is measured runs
 * without it.
 */
// @ts-expect-error The module that stands beside this one in the configuration of workerd.
import * as worker from "./index.js";

// Whatever else it exports; the class below takes the place of the one of its name.
// @ts-expect-error As above.
export * from "./index.js";

type Stub = Record<string, (...args: unknown[]) => unknown>;
type Namespace = { idFromName(name: string): object; get(id: object): Stub };

let objectCalls = 0;

export class LiveConversation extends worker.LiveConversation {
  declare readonly ctx: DurableObjectState;
  readonly #cursors: { rowsWritten: number }[] = [];

  constructor(ctx: DurableObjectState, env: unknown) {
    const cursors: { rowsWritten: number }[] = [];
    const { sql } = ctx.storage;
    const exec = sql.exec.bind(sql);
    sql.exec = ((...args: Parameters<typeof exec>) => {
      const cursor = exec(...args);
      cursors.push(cursor);
      return cursor;
    }) as typeof sql.exec;
    super(ctx, env);
    this.#cursors = cursors;
  }

  /** Rows as the platform bills them: entries of indexes count too. */
  rowsBilled(): number {
    return this.#cursors.reduce((sum, { rowsWritten }) => sum + rowsWritten, 0);
  }

  /** Rows inserted, updated or deleted since the object was loaded. */
  rowsWritten(): number {
    const { sql } = this.ctx.storage;
    return sql.exec<{ changes: number }>("SELECT total_changes() AS changes").one().changes;
  }
}

const counting = (namespace: Namespace) => ({
  idFromName: (name: string) => namespace.idFromName(name),
  get(id: object): Stub {
    const stub = namespace.get(id);
    return new Proxy({} as Stub, {
      get:
        (_, method: string) =>
        (...args: unknown[]) => {
          objectCalls += 1;
          return stub[method]?.(...args);
        },
    });
  },
});

/** One object for all requests, as the runtime's own is. */
let counted: object | undefined;

export default {
  async fetch(
    request: Request,
    env: { LIVE_CONVERSATIONS: Namespace; STORAGE_OBJECTS: Namespace },
    ctx: ExecutionContext,
  ) {
    const { pathname } = new URL(request.url);
    const conversationId = /^\/recorded\/(.*)$/.exec(pathname)?.[1];
    if (conversationId !== undefined) {
      const { LIVE_CONVERSATIONS: namespace } = env;
      const object = namespace.get(namespace.idFromName(conversationId));
      const rowsWritten = await object.rowsWritten?.();
      return Response.json({ objectCalls, rowsWritten, rowsBilled: await object.rowsBilled?.() });
    }
    counted ??= {
      ...env,
      LIVE_CONVERSATIONS: counting(env.LIVE_CONVERSATIONS),
      STORAGE_OBJECTS: counting(env.STORAGE_OBJECTS),
    };
    return worker.default.fetch(request, counted, ctx);
  },
};
