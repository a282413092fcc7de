/**
 * `/openapi.json` and `/docs`: what this API is. Open to anybody, like the README: they hold no secret, and whoever
 * generates a client or looks up a code should not need a credential for it.
 */
import { CONTENT_SECURITY_POLICY, DOCUMENT, PAGE } from "../openapi/published.js";
import type { AppContext } from "./context.ts";

export function handleDocument(c: AppContext): Response {
  return c.body(DOCUMENT, 200, { "content-type": "application/json" });
}

/** It loads nothing and runs nothing, and may not be brought to. */
export function handleDocs(c: AppContext): Response {
  return c.html(PAGE, 200, { "content-security-policy": CONTENT_SECURITY_POLICY }) as Response;
}
