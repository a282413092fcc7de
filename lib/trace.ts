/**
 * Spans of our own, from a callback to its confirmation, for who has switched on the platform's traces; without those
 * they cost nothing and go nowhere. As in the log, an attribute is an id, a code, a count or a name, never a content
 * or a URL: the list is closed.
 */
export type SpanName = "callback" | "push" | "acknowledge";

export type SpanAttributes = {
  /** Of the HTTP request. */
  requestId?: string | undefined;
  conversationId?: string | undefined;
  callbackRequestId?: string | undefined;
  channel?: string | undefined;
  delivery?: string | undefined;
  /** How many results it is about. */
  results?: number | undefined;
  outcome?: string | undefined;
  reason?: string | undefined;
  closeCode?: number | undefined;
};

/** Does the work in a span, which ends with it; `note` adds what was found out. */
export type Trace = <T>(
  name: SpanName,
  attributes: SpanAttributes,
  work: (note: (attributes: SpanAttributes) => void) => T,
) => T;

/**
 * Spans of the runtime (`tracing` of `cloudflare:workers`), each of which has `bound` too. Where somebody traces, what is
 * done in one is within it. `enterSpan` would do the same, but makes a context and a promise also where nobody does.
 */
export function traceBy(
  tracing: Pick<Tracing, "startSpan" | "withActiveSpan">,
  bound: SpanAttributes,
): Trace {
  return (name, attributes, work) => {
    const span = tracing.startSpan(name);
    // Where nobody traces, nothing is built either.
    if (!span.isTraced) return work(noNote);
    const note = (found: SpanAttributes) => void span.setAttributes(found);
    note({ ...bound, ...attributes });
    return tracing.withActiveSpan(span, () => endedWith(span, () => work(note)));
  };
}

/** Does the work, with which the span ends. */
function endedWith<T>(span: Pick<Span, "end">, work: () => T): T {
  let done: T;
  try {
    done = work();
  } catch (error) {
    span.end();
    throw error;
  }
  if (done instanceof Promise) return done.finally(() => span.end()) as T;
  span.end();
  return done;
}

const noNote = () => {};

/** For who has no runtime that traces. */
export const noTrace: Trace = (_name, _attributes, work) => work(noNote);
