/** The files that are served as they are. The Worker stands before them, so it decides who is answered, and how. */
import type { AppContext } from "./context.ts";
import { ProblemError } from "./problem.ts";

/** Kept by a browser, and asked for again each time by its etag. */
const REVALIDATED = "no-cache";

/**
 * Answers with a file, by its path in the assets. Throws `not_found` where there is none, as where a Worker was put
 * together without assets.
 */
export async function answerAsset(
  c: AppContext,
  path: string,
  headers: Record<string, string> = {},
): Promise<Response> {
  const known = c.req.header("if-none-match");
  const response = await c.env.ASSETS?.fetch(new URL(path, c.req.url), {
    headers: known === undefined ? {} : { "if-none-match": known },
  });
  if (response === undefined || (response.status !== 200 && response.status !== 304)) {
    throw new ProblemError("not_found", "There is nothing at this path.");
  }
  const kept = ["content-type", "etag"].flatMap((name) => {
    const value = response.headers.get(name);
    return value === null ? [] : [[name, value] as const];
  });
  return c.newResponse(response.body, response.status, {
    ...Object.fromEntries(kept),
    ...headers,
    "cache-control": REVALIDATED,
  });
}
