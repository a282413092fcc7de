/**
 * Writes the document and its page, as texts that the Worker answers with, to `openapi/published.js`. wrangler runs it
 * before it builds, so that neither schemas nor converter are in the Worker.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createDocument } from "./document.ts";
import { CONTENT_SECURITY_POLICY, renderPage } from "./page.ts";

const document = createDocument();
const published = { DOCUMENT: JSON.stringify(document), PAGE: renderPage(document), CONTENT_SECURITY_POLICY };
const lines = Object.entries(published).map(
  ([name, text]) => `export const ${name} = ${JSON.stringify(text)};\n`,
);
const path = join(import.meta.dirname, "published.js");
const text = lines.join("");
// A file that is written anew would make `wrangler dev` build again, for ever.
if (!existsSync(path) || readFileSync(path, "utf8") !== text) writeFileSync(path, text);
