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

/** Spans of the runtime (`tracing` of `cloudflare:workers`, or of a request's context), each of which has `bound` too. */
export function traceBy(tracing: Pick<Tracing, "enterSpan">, bound: SpanAttributes): Trace {
  return (name, attributes, work) =>
    tracing.enterSpan(name, (span) => {
      // Where nobody traces, nothing is built either.
      if (!span.isTraced) return work(noNote);
      const note = (found: SpanAttributes) => void span.setAttributes(found);
      note({ ...bound, ...attributes });
      return work(note);
    });
}

const noNote = () => {};

/** For who has no runtime that traces. */
export const noTrace: Trace = (_name, _attributes, work) => work(noNote);
