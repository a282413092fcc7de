/**
 * Writes the document and its page to the Worker's assets, and to `openapi/published.js` what the Worker itself must know
 * of them. wrangler runs it before it builds, so that neither schemas nor converter nor texts are in the Worker.
 */
import { join } from "node:path";
import { writeAsset, writeIfChanged } from "../console/assets.ts";
import { createDocument } from "./document.ts";
import { CONTENT_SECURITY_POLICY, renderPage } from "./page.ts";

const document = createDocument();
writeAsset("openapi.json", JSON.stringify(document));
writeAsset("docs.html", renderPage(document));
writeIfChanged(
  join(import.meta.dirname, "published.js"),
  `export const CONTENT_SECURITY_POLICY = ${JSON.stringify(CONTENT_SECURITY_POLICY)};\n`,
);
