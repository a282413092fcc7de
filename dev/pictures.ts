/**
 * `npm run pictures`: takes the pictures of the example pages that the documentation shows, with Chromium, before a
 * product of its own.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findChromium, launchChromium } from "./chromium.ts";
import type { PageName } from "./pages/backend.ts";

const DOCS = join(import.meta.dirname, "../docs");
const VIEWPORT = { width: 640, height: 690 };

const SAID: Record<PageName, string> = {
  relay: "Research suppliers who deliver this week",
  proxy: "Research suppliers in Bonn",
};

const executable = findChromium();
if (executable === null) throw new Error("Chromium is not installed.");
const probe = createServer().listen(0, "127.0.0.1");
await once(probe, "listening");
const { port } = probe.address() as { port: number };
probe.close();
await once(probe, "close");

const state = mkdtempSync(join(tmpdir(), "pictures-"));
const product = spawn(process.execPath, [join(import.meta.dirname, "start.ts"), "--persist-to", state], {
  env: { ...process.env, PORT: String(port) },
  stdio: ["ignore", "pipe", "inherit"],
});
let printed = "";
for await (const chunk of product.stdout.setEncoding("utf8").iterator({ destroyOnReturn: false })) {
  printed += chunk;
  if (printed.includes("\n3. ")) break;
}
product.stdout.resume();

const browser = await launchChromium(executable);
try {
  for (const name of ["relay", "proxy"] as const) {
    const address = new RegExp(`http:\\S+/${name}#\\S+`).exec(printed)?.[0];
    if (address === undefined) throw new Error(`npm start did not begin:\n${printed}`);
    const page = await browser.newPage({ viewport: VIEWPORT, colorScheme: "light" });
    await page.goto(address);
    await page.waitForSelector(
      name === "relay" ? '#line[data-state="live"]' : '#agent[data-state="connected"]',
    );
    await page.fill("#text", SAID[name]);
    await page.press("#text", "Enter");
    // The example runner takes some seconds.
    await page.getByText("Your task research has finished:").waitFor();
    await page.locator('#tasks [data-state="done"]').waitFor();
    await page.mouse.move(0, 0);
    await page.evaluate("document.activeElement.blur()");
    const path = join(DOCS, `${name}.png`);
    await page.screenshot({ path });
    console.log(`${path}: ${statSync(path).size} bytes`);
    await page.close();
  }
} finally {
  await browser.close();
  product.kill("SIGTERM");
  await once(product, "close");
  rmSync(state, { recursive: true, force: true });
}
