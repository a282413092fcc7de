/** The scenarios in Chromium, with the example pages as they are served, and the pages themselves. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { launchChromium } from "../../dev/chromium.ts";
import { tellScenarios } from "./scenarios.ts";
import { chromiumFor, startChromiumVisitor } from "./support/chromium.ts";
import { startWorld, type World } from "./support/world.ts";

const chromium = chromiumFor({
  covers: "the client and the official SDK in a real browser, and the example pages",
});

describe.skipIf(chromium === null)("in Chromium", () => {
  tellScenarios(["relay", "proxy"], startChromiumVisitor(chromium ?? ""));
});

describe.skipIf(chromium === null)("an example page", () => {
  let world: World;
  let browser: Awaited<ReturnType<typeof launchChromium>>;
  beforeAll(async () => {
    world = await startWorld();
    browser = await launchChromium(chromium ?? "");
  });
  afterAll(async () => {
    await browser.close();
    await world.close();
  });
  afterEach(async () => {
    for (const context of browser.contexts()) await context.close();
  });

  /** A page that has shown a result, and what it complained of and asked for. */
  async function openPage(name: "relay" | "proxy", colorScheme: "light" | "dark" = "light") {
    const context = await browser.newContext({ viewport: { width: 320, height: 640 }, colorScheme });
    const page = await context.newPage();
    const complaints: string[] = [];
    const asked = new Set<string>();
    page.on("console", (message) => {
      if (message.type() === "error" || message.type() === "warning") complaints.push(message.text());
    });
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("request", (request) => asked.add(new URL(request.url()).hostname));
    page.on("websocket", (socket) => asked.add(new URL(socket.url()).hostname));
    await page.goto(world.site.pageUrl(name));
    await page.waitForSelector('#agent[data-state="connected"]');
    return { page, complaints, asked };
  }

  test("finishes a task at the press of a button, aloud and silently, and asks no other host", async () => {
    const { page, complaints, asked } = await openPage("relay");
    await page.waitForSelector('#line[data-state="live"]');
    await page.click("text=Finish a task");
    await page.getByText("Its runner was told: delivered, relay.").waitFor();
    await page.getByText(/^Your task research has finished: Three suppliers/).waitFor();
    await page.click("text=The last push, as it came");
    expect(JSON.parse((await page.textContent("#push")) ?? "")).toMatchObject({
      type: "push",
      delivery: "when_idle",
      results: [{ success: true, toolName: "research" }],
    });

    await page.check("#silently");
    await page.click("text=Finish a task");
    await page.getByText("Its runner was told: delivered, relay.").waitFor();
    await page.fill("#text", "anything new?");
    await page.click("text=Send");
    await page.getByText(/By the way: Your task booking has finished: A table/).waitFor();
    expect(complaints).toEqual([]);
    expect([...asked]).toEqual(["127.0.0.1"]);
  });

  test.each(["light", "dark"] as const)("fits 320 pixels and can be read, %s", async (colorScheme) => {
    const { page } = await openPage("relay", colorScheme);
    const { width, ink, paper } = await page.evaluate(() => {
      const { color, backgroundColor } = getComputedStyle(document.body);
      return { width: document.documentElement.scrollWidth, ink: color, paper: backgroundColor };
    });
    const lightness = (color: string) => Math.max(...(color.match(/\d+/g) ?? []).map(Number));

    expect(width).toBe(320);
    expect(Math.sign(lightness(paper) - lightness(ink))).toBe(colorScheme === "light" ? 1 : -1);
  });

  test("without the key of its address says so", async () => {
    const page = await (await browser.newContext()).newPage();
    await page.goto(world.site.pageUrl("relay").replace(/#.*/, ""));

    await page.getByText("Open the page by the whole address that npm start prints.").waitFor();
  });
});
