/** A visitor with Chromium. */
import type { BrowserContext, Page } from "playwright-core";
import { findChromium, launchChromium } from "../../../dev/chromium.ts";
import type { PageName } from "../../../dev/pages/backend.ts";
import type { ShownMessage } from "../../../dev/pages/visit.ts";
import { PATIENCE_MS, type Tab, type Visitor } from "./visitor.ts";
import type { World } from "./world.ts";

/**
 * Where Chromium is. Null where there is none, after one line on the console; throws where CHROMIUM_REQUIRED says so.
 */
export function chromiumFor({ covers }: { covers: string }): string | null {
  const found = findChromium();
  if (found === null && process.env.CHROMIUM_REQUIRED) throw new Error("Chromium is not installed.");
  if (found === null) console.warn(`Chromium is not installed; not covered by this run: ${covers}`);
  return found;
}

/** What only the same page, kept alive, still has. */
const MARK = "wasLeftAlive";

export const startChromiumVisitor =
  (executablePath: string) =>
  async ({ site }: World): Promise<Visitor> => {
    const browser = await launchChromium(executablePath);
    let context: BrowserContext | undefined;
    const ownContext = async () => {
      context ??= await browser.newContext();
      return context;
    };
    return {
      keepsPages: true,
      async open(channel, conversationId) {
        const page = await (await ownContext()).newPage();
        const address = new URL(site.pageUrl(channel));
        if (conversationId !== undefined) address.searchParams.set("conversation", conversationId);
        return openTab(page, channel, address.href);
      },
      async networkIs(state) {
        await (await ownContext()).setOffline(state === "offline");
      },
      async closeTabs() {
        await context?.close();
        context = undefined;
      },
      close: () => browser.close(),
    };
  };

async function openTab(page: Page, channel: PageName, address: string): Promise<Tab> {
  page.setDefaultTimeout(PATIENCE_MS);
  page.on("pageerror", (error) => console.error("in the page:", error));
  await page.clock.install();
  await page.goto(address);
  const named = async () => {
    // What comes back from the cache is not loaded again.
    await page.waitForURL(/[?&]conversation=/, { waitUntil: "commit" });
    return new URL(page.url()).searchParams.get("conversation") ?? "";
  };

  const tab: Tab = {
    conversationId: await named(),
    connected: () => tab.becomes({ agent: "connected", ...(channel === "relay" && { line: "live" }) }),
    async becomes({ agent, line }) {
      if (agent !== undefined) await page.waitForSelector(`#agent[data-state="${agent}"]`);
      if (line !== undefined) await page.waitForSelector(`#line[data-state="${line}"]`);
    },
    async say(text) {
      await page.fill("#text", text);
      await page.press("#text", "Enter");
    },
    transcript: () =>
      page.locator("#transcript li").evaluateAll((items) =>
        items.map((item) => ({
          from: item.className as ShownMessage["from"],
          text: item.querySelector("span")?.textContent ?? "",
        })),
      ),
    async shows(from, text) {
      const words = page.locator(`#transcript li.${from} span`).filter({ hasText: text }).first();
      return (await words.textContent()) ?? "";
    },
    async showsTask(text) {
      await page.locator("#tasks li").first().filter({ hasText: text }).waitFor();
    },
    cancelTask: () => page.locator("#tasks button").first().click(),
    pass: (ms) => page.clock.fastForward(ms),
    async reload() {
      await page.reload();
    },
    async goAway() {
      await page.evaluate((mark) => Object.assign(window, { [mark]: true }), MARK);
      await page.goto(new URL("/elsewhere", address).href);
    },
    async comeAgain() {
      const conversation = tab.conversationId;
      const again = new URL(address);
      again.searchParams.set("conversation", conversation);
      await page.goto(again.href);
      await named();
    },
    async goBack() {
      await page.evaluate(() => void setTimeout(() => history.back()));
      await named();
      return page.evaluate((mark) => mark in window, MARK);
    },
    close: () => page.close({ runBeforeUnload: false }),
  };
  return tab;
}
