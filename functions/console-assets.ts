/**
 * `/console`: the operator's page and its files. Open to anybody: they hold no secret, and whatever the page asks for is
 * behind the API token, which it sends as a header and keeps in the tab.
 */
import { answerAsset } from "./assets.ts";
import type { AppContext } from "./context.ts";

/** It loads what stands beside it and asks nobody but this Worker, whatever text it is made to show. */
const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self' data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

export function handleConsole(c: AppContext): Promise<Response> {
  return answerFile(c, "index.html");
}

export function handleConsoleFile(c: AppContext): Promise<Response> {
  return answerFile(c, c.req.param("file") ?? "");
}

function answerFile(c: AppContext, name: string): Promise<Response> {
  return answerAsset(c, `/console/${encodeURIComponent(name)}`, {
    "content-security-policy": CONTENT_SECURITY_POLICY,
  });
}
