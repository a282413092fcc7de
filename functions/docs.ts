/**
 * `/openapi.json` and `/docs`: what this API is. Open to anybody, like the README: they hold no secret, and whoever
 * generates a client or looks up a code should not need a credential for it.
 */
import { CONTENT_SECURITY_POLICY } from "../openapi/published.js";
import { answerAsset } from "./assets.ts";
import type { AppContext } from "./context.ts";

export function handleDocument(c: AppContext): Promise<Response> {
  return answerAsset(c, "/openapi.json");
}

/** It loads nothing and runs nothing, and may not be brought to. */
export function handleDocs(c: AppContext): Promise<Response> {
  return answerAsset(c, "/docs.html", { "content-security-policy": CONTENT_SECURITY_POLICY });
}
