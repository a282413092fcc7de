/**
 * Requests that our own entrypoint makes for another Worker of the account. They are known by their identity: none of
 * them came over the network, so nothing that did can pass for one.
 */
import type { AppContext } from "./context.ts";

const vouched = new WeakSet<Request>();

/** Lets a request in as that of a server and of a sender of callbacks. Returns it. */
export function vouchFor(request: Request): Request {
  vouched.add(request);
  return request;
}

export function isVouchedFor(c: AppContext): boolean {
  return vouched.has(c.req.raw);
}
