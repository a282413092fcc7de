/**
 * `npm run pictures`: takes the pictures of the example pages and of the console that the documentation shows, with
 * Chromium, before a product of its own.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Page } from "playwright-core";
import { findChromium, launchChromium } from "./chromium.ts";
import { freePort } from "./free-port.ts";
import type { PageName } from "./pages/backend.ts";

const DOCS = join(import.meta.dirname, "../docs");
const VIEWPORT = { width: 640, height: 690 };
const CONSOLE_VIEWPORT = { width: 1024, height: 860 };

const SAID: Record<PageName, string> = {
  relay: "Research suppliers who deliver this week",
  proxy: "Research suppliers in Bonn",
};

const executable = findChromium();
if (executable === null) throw new Error("Chromium is not installed.");
const port = await freePort();

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

const [EXPIRED, OPENED] = ["booking-4135", "weather-4121"];
const url = `http://127.0.0.1:${port}`;
const secrets = JSON.parse(readFileSync(join(state, "secrets.json"), "utf8")) as Record<string, string>;
const agentUrl = /A demo agent listens at (\S+)/.exec(printed)?.[1] ?? "";

async function send(path: string, secret: string | undefined, body: object): Promise<void> {
  const headers = { authorization: `Bearer ${secret}`, "content-type": "application/json" };
  const response = await fetch(url + path, { method: "POST", headers, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(`${path} answers ${response.status}: ${await response.text()}`);
}

/** Results of each kind: visitors who are there, one of them too late, one who is away, and one without a channel. */
async function makeResults(): Promise<void> {
  const tools = ["research", "booking", "translation", "weather"];
  const callBack = (conversationId: string, i: number, fields: object = {}) =>
    send("/callback", secrets.WEBHOOK_SECRET, {
      requestId: `${tools[i % tools.length]}-${4100 + i * 7}`,
      conversationId,
      toolName: tools[i % tools.length],
      output: "The report is ready: three suppliers, the cheapest is Acme.",
      ...fields,
    });
  for (let i = 0; i < 6; i++) {
    const visitor = `visitor-${71 + i * 13}`;
    await send(`/agent-conversations/api/${visitor}/session`, secrets.API_TOKEN, { sessionUrl: agentUrl });
    await callBack(visitor, i, i === 5 ? { deliverBy: new Date(Date.now() - 1_000).toISOString() } : {});
  }
  for (const i of [7, 8]) await callBack("visitor-208", i);
  const webrtc = { transport: "webrtc", sessionPayload: {} };
  await send("/agent-conversations/api/visitor-221/session", secrets.API_TOKEN, webrtc);
  await callBack("visitor-221", 9);
}

/** The last hour of a product that has run for one: here nobody waits for it. */
function lastHour(): object {
  const minutes = Array.from({ length: 60 }, (_, i) => ({
    at: new Date(Date.now() - (60 - i) * 60_000).toISOString(),
    delivered: Math.round(9 + 6 * Math.sin(i / 7) + ((i * 13) % 5)),
    failed: i > 34 && i < 39 ? 1 + (i % 3) : 0,
    other: i % 19 === 4 ? 1 : 0,
  }));
  return { minutes, isPartial: false };
}

async function takeConsole(page: Page): Promise<void> {
  const names = ["results", "sessions", "conversation", "health", "try"] as const;
  const conversation = "visitor-71";
  const addresses = {
    results: "#/results",
    sessions: "#/sessions",
    conversation: `#/conversations/${conversation}`,
    health: "#/health",
    try: `#/try?conversation=${conversation}`,
  };
  await page.route("**/console/api/rates", (route) => route.fulfill({ json: lastHour() }));
  await page.goto(`${url}/console`);
  await page.fill("#api-token", secrets.API_TOKEN ?? "");
  await page.press("#api-token", "Enter");
  for (const name of [EXPIRED, OPENED]) await page.locator("li.result", { hasText: name }).waitFor();
  for (const name of names) {
    await page.goto(`${url}/console${addresses[name]}`);
    await page.waitForLoadState("networkidle");
    if (name === "results") await page.locator("li.result button.open", { hasText: OPENED }).click();
    if (name === "conversation") await page.locator("li.result button.open").first().click();
    if (name === "try") {
      await page.fill("input[name=webhook-secret]", secrets.WEBHOOK_SECRET ?? "");
      await page.press("input[name=webhook-secret]", "Enter");
      await page.locator(".answer pre").waitFor();
    }
    await page.mouse.move(0, 0);
    await page.evaluate("document.activeElement.blur(); scrollTo(0, 0)");
    // What turns when a row is opened.
    await sleep(300);
    const path = join(DOCS, `console-${name}.png`);
    await page.screenshot({ path });
    console.log(`${path}: ${statSync(path).size} bytes`);
  }
}

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
  await makeResults();
  await takeConsole(await browser.newPage({ viewport: CONSOLE_VIEWPORT, colorScheme: "light" }));
} finally {
  await browser.close();
  product.kill("SIGTERM");
  await once(product, "close");
  rmSync(state, { recursive: true, force: true });
}
