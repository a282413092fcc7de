/** The console in Chromium, over the built Worker and what its routes really answer. */
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { promisify } from "node:util";
import type { Locator, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { launchChromium } from "../../dev/chromium.ts";
import { openPage as openLine } from "../support/page.ts";
import { API_TOKEN, CLOSED_DOORS, SHARED_SECRET, SIGNING_SECRET } from "../support/secrets.ts";
import { LOCAL_BINDINGS, startWorker, type TestWorker } from "../support/worker.ts";
import { chromiumFor } from "./support/chromium.ts";

const chromium = chromiumFor({ covers: "the console" });
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const API = "/agent-conversations/api";
const POLL_MS = 5_000;
/** Would be markup, and reads backwards. */
const HOSTILE = '</pre><img src=x onerror="document.title=1"><script>alert(1)</script>\u202egnp.exe';

const VIEWS = ["#/results", "#/sessions", "#/conversations/live", "#/health", "#/try?conversation=live"];

describe.skipIf(chromium === null)("the console", () => {
  let worker: TestWorker;
  let browser: Awaited<ReturnType<typeof launchChromium>>;
  let line: Awaited<ReturnType<typeof openLine>>;
  let requests = 0;

  const bearer = (secret: string) => ({ authorization: `Bearer ${secret}` });
  const ask = async (path: string, json?: unknown) => {
    const init = { headers: bearer(API_TOKEN), ...(json === undefined ? {} : { json }) };
    return (await worker.fetch(path, init)).json() as Promise<Record<string, unknown>>;
  };
  /** Sends a result; returns its requestId. */
  async function callBack(conversationId: string, fields: object = {}): Promise<string> {
    requests += 1;
    const requestId = `request-${requests}`;
    const json = { requestId, conversationId, output: `output of ${requestId}`, ...fields };
    await worker.fetch("/callback", { headers: bearer(SHARED_SECRET), json });
    return requestId;
  }
  const past = () => new Date(Date.now() - 1_000).toISOString();

  beforeAll(async () => {
    worker = await startWorker({ ...LOCAL_BINDINGS, ...CLOSED_DOORS });
    browser = await launchChromium(chromium ?? "");
    line = await openLine(worker.url, "live", { token: API_TOKEN });
    await line.hello({ agentSessionId: "conv_1" });
    line.socket.on("message", (data) => {
      const frame = JSON.parse(String(data)) as { type: string; requestIds: string[] };
      if (frame.type === "push") line.ack(frame.requestIds);
    });
    await ask(`${API}/live/message`, { id: "m1", role: "user", content: HOSTILE });
  });
  afterAll(async () => {
    line?.leave();
    await browser?.close();
    await worker?.close();
  });
  afterEach(async () => {
    for (const context of browser.contexts()) await context.close();
  });

  type Options = { width?: number; colorScheme?: "light" | "dark"; token?: string | null; hash?: string };

  /** A tab with the console, opened by a token unless that is null; whatever it complained of, and asked for. */
  async function openConsole({
    width = 1100,
    colorScheme = "light",
    token = API_TOKEN,
    hash = "#/results",
  }: Options = {}) {
    const context = await browser.newContext({ viewport: { width, height: 720 }, colorScheme });
    const page = await context.newPage();
    page.setDefaultTimeout(10_000);
    const complaints: string[] = [];
    const asked: string[] = [];
    page.on("console", (message) => {
      // A refusal that a test provokes is the browser's own remark.
      const isRemark = message.text().startsWith("Failed to load resource");
      if (["error", "warning"].includes(message.type()) && !isRemark) complaints.push(message.text());
    });
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("request", (request) => asked.push(request.url()));
    await page.clock.install();
    await page.goto(new URL(`/console${hash}`, worker.url).href);
    if (token !== null) await enter(page, token);
    return { page, complaints, asked };
  }

  async function enter(page: Page, token: string): Promise<void> {
    await page.fill("#api-token", token);
    await page.press("#api-token", "Enter");
  }

  const row = (page: Page, requestId: string): Locator => page.locator("li.result", { hasText: requestId });
  /** Lets time pass for the page until something is there: what is settled is logged some seconds later. */
  async function comes(found: Locator): Promise<void> {
    for (let look = 0; look < 50 && !(await found.isVisible()); look++) {
      await found.page().clock.fastForward(POLL_MS);
      await found.page().waitForTimeout(200);
    }
    await found.waitFor();
  }
  const heading = (page: Page, text: string) => page.locator("h1", { hasText: text }).waitFor();

  describe("asks for the API token", () => {
    test("once for a tab, and keeps it out of every address", async () => {
      const { page, asked, complaints } = await openConsole();
      await heading(page, "Results");
      await page.reload();
      await heading(page, "Results");
      for (const hash of VIEWS) {
        await page.evaluate((hash) => {
          location.hash = hash;
        }, hash);
        await page.waitForFunction((hash) => location.hash === hash, hash);
        await page.waitForTimeout(100);
      }
      expect([page.url(), ...asked].filter((url) => url.includes(API_TOKEN))).toEqual([]);
      expect(new Set(asked.map((url) => new URL(url).origin))).toEqual(new Set([worker.url.origin]));
      expect(complaints).toEqual([]);

      const other = await (await browser.newContext()).newPage();
      await other.goto(page.url());
      await other.waitForSelector("#api-token");
    });

    test("and says why it does not take one", async () => {
      const { page } = await openConsole({ token: "not-the-token" });
      await page.getByText("This token is not taken.").waitFor();
      const { token } = await ask(`${API}/live/token`, {});
      await enter(page, String(token));
      await page.getByText("This is the token of one conversation.").waitFor();
      expect(await page.evaluate(() => sessionStorage.length)).toBe(0);
      await enter(page, API_TOKEN);
      await heading(page, "Results");
    });

    test("again, and says so, when it is no longer taken", async () => {
      const { page } = await openConsole({ hash: "#/health" });
      await heading(page, "Health");
      await page.getByText("Latency").waitFor();
      await page.evaluate(() => {
        for (const key of Object.keys(sessionStorage)) sessionStorage.setItem(key, "rotated");
      });
      await page.clock.fastForward(2 * POLL_MS);
      await page.clock.fastForward(30_000);
      await page.getByText("This token is not taken.").waitFor();
      await enter(page, API_TOKEN);
      await heading(page, "Health");
    });

    test("after it was told to forget it", async () => {
      const { page } = await openConsole();
      await page.click("text=Forget token");
      await page.waitForSelector("#api-token");
      expect(await page.evaluate(() => sessionStorage.length)).toBe(0);
    });
  });

  describe("results", () => {
    test("what waits stands on top, and what is settled below, with its attempts", async () => {
      const waiting = await callBack("away");
      const delivered = await callBack("live");
      const { page } = await openConsole();
      await row(page, waiting).locator(".badge", { hasText: "waiting" }).waitFor();
      expect(await row(page, waiting).textContent()).toContain("not tried");
      const settled = row(page, delivered);
      await comes(settled);
      expect(await settled.textContent()).toMatch(/delivered.*live.*relay.*1 try/);

      await settled.locator("button.open").focus();
      await page.keyboard.press("Enter");
      const cells = settled.locator("tbody td");
      expect((await cells.allTextContents()).slice(1, 3)).toEqual(["relay", "delivered"]);
      await page.keyboard.press("Enter");
      await settled.locator("table").waitFor({ state: "hidden" });
    });

    test("stay open, focused and selected while others come", async () => {
      const first = await callBack("live");
      const { page } = await openConsole();
      await comes(row(page, first));
      await row(page, first).locator("button.open").click();
      await row(page, first).locator("tbody td").first().waitFor();
      await row(page, first).locator("text=Say again").focus();
      const scrolled = await page.evaluate(() => {
        document.body.style.minHeight = "3000px";
        scrollTo(0, 40);
        getSelection()?.selectAllChildren(document.querySelector("li.is-open .facts") ?? document.body);
        return String(getSelection());
      });
      const second = await callBack("live");
      await comes(row(page, second));

      expect(await row(page, first).locator("table").isVisible()).toBe(true);
      expect(await page.evaluate(() => document.activeElement?.textContent)).toBe("Say again");
      expect(await page.evaluate(() => String(getSelection()))).toBe(scrolled);
      expect(await page.locator("#announcements").textContent()).toMatch(/1 result more settled/);
    });

    test("say what they say only to who asks, and then as text", async () => {
      const requestId = await callBack("live", { output: HOSTILE, toolName: "research" });
      const { page, complaints } = await openConsole();
      await comes(row(page, requestId));
      await row(page, requestId).locator("button.open").click();
      expect(await page.content()).not.toContain("gnp.exe");
      await row(page, requestId).locator("text=Show what it says").click();
      const shown = await row(page, requestId).locator("pre").first().textContent();
      expect(shown).toBe(HOSTILE.replace("\u202e", "\\u{202E}"));
      expect(await page.title()).toMatch(/^Results/);
      expect(complaints).toEqual([]);
    });

    test("are filtered by status, conversation and request, and the address says how", async () => {
      const delivered = await callBack("live");
      const expired = await callBack("filtered", { deliverBy: past() });
      const { page } = await openConsole();
      await comes(row(page, delivered));
      await page.check("text=Failures only");
      await row(page, delivered).waitFor({ state: "detached" });
      await comes(row(page, expired));
      expect(page.url()).toMatch(/#\/results\?failed=true$/);

      await page.selectOption("select[name=status]", "superseded");
      await page.getByText("None that this filter lets through.").waitFor();
      await page.selectOption("select[name=status]", "");
      await page.uncheck("text=Failures only");
      await page.fill("input[name=conversation]", "filtered");
      await page.clock.fastForward(500);
      await row(page, delivered).waitFor({ state: "detached" });
      await page.fill("input[name=conversation]", "");
      await page.fill("input[name=request]", delivered);
      await page.clock.fastForward(500);
      await row(page, expired).waitFor({ state: "detached" });
      await comes(row(page, delivered));
      await page.reload();
      await comes(row(page, delivered));
      expect(await page.inputValue("input[name=request]")).toBe(delivered);
      expect(await row(page, expired).count()).toBe(0);
    });

    test("of one conversation are found however long it was not active", async () => {
      const waiting = await callBack("long-ago");
      const { page } = await openConsole();
      // As if forty others were active since then.
      await page.route("**/console/api/waiting*", (route) =>
        route.fulfill({ json: { conversations: [], unanswered: 0 } }),
      );
      await page.reload();
      await page.getByText("Nothing waits.").waitFor();
      await page.fill("input[name=conversation]", "long-ago");
      await page.clock.fastForward(500);
      await row(page, waiting).locator(".badge", { hasText: "waiting" }).waitFor();
      await page.fill("input[name=conversation]", "no id, this");
      await page.clock.fastForward(500);
      await page.getByText("None that this filter lets through.").waitFor();
    });

    test("come fifty at a time, and a hundred thousand of them are no heavier", async () => {
      const { page } = await openConsole();
      let newest = 100_000;
      await page.route("**/console/api/results?*", (route) => {
        const before = Number(new URL(route.request().url()).searchParams.get("before") ?? newest + 1);
        const results = Array.from({ length: 50 }, (_, i) => settled(before - 1 - i));
        return route.fulfill({ json: { results, nextBefore: String(before - 50) } });
      });
      await page.reload();
      await row(page, "made-100000").waitFor();
      const rows = page.locator("section:not(.waiting) li.result");
      expect(await rows.count()).toBe(50);
      for (const count of [100, 150]) {
        await page.getByRole("button", { name: "Older", exact: true }).click();
        await row(page, `made-${newest + 1 - count}`).waitFor();
        expect(await rows.count()).toBe(count);
      }
      newest += 3;
      await comes(row(page, "made-100003"));
      expect(await rows.count()).toBe(153);
      // More than a page at once: what lies between is asked for by who wants to see it.
      newest += 60;
      await comes(row(page, "made-100063"));
      expect(await rows.count()).toBe(50);
    });

    test("are said again at the press of a button", async () => {
      const requestId = await callBack("live");
      const { page } = await openConsole();
      await comes(row(page, requestId));
      await row(page, requestId).locator("button.open").click();
      await row(page, requestId).locator("text=Say again").click();
      await row(page, requestId).getByText("It waits again").waitFor();
      await line.eventually("second push", () =>
        line.pushes().filter(({ requestIds }) => requestIds.includes(requestId)).length === 2 ? true : null,
      );
    });

    test("that failed and were heard in the end are one row, and no failure any more", async () => {
      const requestId = await callBack("live", { deliverBy: past() });
      const [{ page }, failures] = [
        await openConsole(),
        await openConsole({ hash: "#/results?failed=true" }),
      ];
      for (const tab of [page, failures.page]) await comes(row(tab, requestId));
      await row(page, requestId).locator("button.open").click();
      await row(page, requestId).locator("text=Say again").click();
      await comes(row(page, requestId).locator(".badge", { hasText: "delivered" }).first());
      expect(await row(page, requestId).count()).toBe(1);
      // It was opened, and stays so.
      expect(await row(page, requestId).locator("button.open").getAttribute("aria-expanded")).toBe("true");
      for (let look = 0; look < 50 && (await row(failures.page, requestId).count()) > 0; look++) {
        await failures.page.clock.fastForward(POLL_MS);
        await failures.page.waitForTimeout(100);
      }
      expect(await row(failures.page, requestId).count()).toBe(0);
    });

    test("that wait where nobody answers are not said to be none", async () => {
      const { page } = await openConsole();
      await page.route("**/console/api/waiting?*", (route) =>
        route.fulfill({ json: { conversations: [], unanswered: 2 } }),
      );
      await page.reload();
      await page.getByText("2 conversations did not say what waits there.").waitFor();
      expect(await page.getByText("Nothing waits").count()).toBe(0);
    });

    test("that failed are handed over together, by who confirms it, who is told how many", async () => {
      const conversationId = "handed-over";
      const since = new Date(Date.now() - 60_000);
      const failed = [await callBack(conversationId, { deliverBy: past() })];
      failed.push(await callBack(conversationId, { deliverBy: past() }));
      const { page } = await openConsole();
      await comes(row(page, failed[1] ?? ""));
      await page.click("text=Hand over what failed…");
      const dialog = page.locator("dialog");
      await dialog.locator("input[name=since]").fill(localText(since));
      await dialog.locator("text=Continue").click();
      expect(await dialog.textContent()).toContain("Is that meant?");
      expect((await ask(`${API}/${conversationId}/results?status=waiting`)).results).toEqual([]);
      await page.keyboard.press("Enter");
      await dialog.getByText(/^\d+ results handed over\.$/).waitFor();
      await page.keyboard.press("Escape");
      await dialog.waitFor({ state: "detached" });
      const { results } = (await ask(`${API}/${conversationId}/results?status=waiting`)) as {
        results: { requestId: string }[];
      };
      expect(results.map(({ requestId }) => requestId).sort()).toEqual(failed.sort());
    });
  });

  test("live sessions have a channel, a countdown and what waits, and lead to their conversation", async () => {
    const { page } = await openConsole({ hash: "#/sessions" });
    const session = page.locator("li.session", { hasText: "live" });
    await session.waitFor();
    expect(await session.textContent()).toMatch(/relay.*live.*nothing waits.*active.*ends in \d:\d\d/);
    const before = await session.locator(".countdown time").textContent();
    await page.clock.fastForward(3_000);
    expect(await session.locator(".countdown time").textContent()).not.toBe(before);

    await session.locator("a").focus();
    await page.keyboard.press("Enter");
    await heading(page, "live");
    // The heading is shown before it is given the focus.
    await expect.poll(() => page.evaluate(() => document.activeElement?.tagName)).toBe("H1");
  });

  test("a conversation shows its session, results, messages, tasks and connections", async () => {
    const requestId = await callBack("live");
    const { page, complaints } = await openConsole({ hash: "#/conversations/live" });
    const part = (title: string) => page.locator("section", { has: page.locator("h2", { hasText: title }) });
    await part("Session").getByText("conv_1").waitFor();
    await part("Results").locator("li", { hasText: requestId }).waitFor();
    await part("Connections").locator("li", { hasText: "registered" }).first().waitFor();
    await part("Tasks").getByText("None.").waitFor();
    await part("Messages").locator("li", { hasText: "m1" }).waitFor();
    expect(await part("Messages").textContent()).not.toContain("gnp.exe");
    await page.check("text=Show what they say");
    const said = part("Messages").locator("li", { hasText: "m1" }).locator("pre");
    expect(await said.textContent()).toBe(HOSTILE.replace("\u202e", "\\u{202E}"));
    expect(complaints).toEqual([]);
  });

  test("of a conversation that is not there it says so", async () => {
    const { page } = await openConsole({ hash: "#/conversations/nobody" });
    await page.getByText("There is no such conversation, or no longer.").waitFor();
    await page.getByText("Nobody is live.").waitFor();
  });

  test("an id that no conversation can have asks nobody", async () => {
    for (const id of ["..", "%2e%2e", "new", "a%2Fb", ""]) {
      const { page, asked } = await openConsole({ hash: `#/conversations/${id}` });
      await page.getByText("There can be no conversation of this id.").waitFor();
      expect(asked.filter((url) => url.includes("/agent-conversations/"))).toEqual([]);
    }
  });

  describe("health", () => {
    test("shows storage, configuration and how results ended, to those who see plots and to those who do not", async () => {
      await callBack("live");
      const { page } = await openConsole({ hash: "#/health" });
      await page.getByText("It answers.").waitFor();
      await page.locator(".badge", { hasText: "complete" }).waitFor();
      const plot = page.locator("figure", { hasText: "Delivered" });
      expect(Number(await plot.locator("b").textContent())).toBeGreaterThan(0);
      expect(await plot.locator("svg").getAttribute("aria-label")).toMatch(
        /^Delivered: \d+ in the last hour/,
      );
      await page.click("text=As a table");
      expect(await page.locator("section table tbody tr").count()).toBeGreaterThan(0);
    });

    test("names what is wrong, and keeps to the rest while something cannot be asked", async () => {
      const { page } = await openConsole({ hash: "#/health" });
      const answers = {
        "**/health": {
          status: "degraded",
          storage: { connected: false, latencyMs: 1500, usingFallback: true },
        },
        "**/config": { version: "9.9.9", problems: [{ variable: "SIGNING_SECRET", message: "is missing" }] },
        "**/console/api/outages": {
          outages: [
            { driver: "upstash", startedAt: "2026-01-01T10:00:00.000Z", endedAt: "2026-01-01T10:05:00.000Z" },
          ],
        },
      };
      for (const [path, json] of Object.entries(answers)) {
        await page.route(path, (route) => route.fulfill({ status: path === "**/config" ? 503 : 200, json }));
      }
      await page.route("**/console/api/rates", (route) => route.abort());
      await page.reload();
      await page.locator(".badge", { hasText: "degraded" }).waitFor();
      await page.locator("li", { hasText: "SIGNING_SECRET is missing" }).waitFor();
      expect(await page.locator("li.outage").textContent()).toContain("5 min");
      await page.getByText("Could not be loaded: The Worker cannot be reached.").waitFor();
      // What goes well does not hide what does not.
      await page.clock.fastForward(POLL_MS);
      await page.waitForResponse("**/health");
      expect(await page.locator("#live").getAttribute("data-state")).toBe("failing");
    });
  });

  test("an answer that it cannot show is not passed off as shown, however often it comes", async () => {
    const { page } = await openConsole({ hash: "#/health" });
    await page.getByText("It answers.").waitFor();
    await page.route("**/health", (route) => route.fulfill({ json: { status: "of a later version" } }));
    for (let look = 0; look < 3; look++) {
      const answered = page.waitForResponse("**/health");
      await page.clock.fastForward(60_000);
      await answered;
      await page.waitForTimeout(100);
      expect(await page.locator("#live").getAttribute("data-state")).toBe("failing");
    }
  });

  test.each(["constructor", "__proto__", "toString", "valueOf"])(
    "an address that names no view, as %s, shows the results",
    async (name) => {
      const { page, complaints } = await openConsole({ hash: `#/${name}` });
      await heading(page, "Results");
      await page.getByRole("link", { name: "Health" }).click();
      await heading(page, "Health");
      expect(complaints).toEqual([]);
    },
  );

  describe("trying it", () => {
    const output = 'It\'s $HOME, `date` and "three" \\ suppliers';

    test("sends a result, shows the answer, and keeps the secret out of the line for a shell", async () => {
      const { page, asked } = await openConsole({ hash: "#/try?conversation=live" });
      await page.fill("textarea", output);
      await page.getByRole("button", { name: "Send", exact: true }).click();
      await page.getByText("The webhook secret is not taken.").waitFor();
      await page.fill("input[name=webhook-secret]", SHARED_SECRET);
      await page.getByRole("button", { name: "Send", exact: true }).click();
      await page.locator(".answer", { hasText: '"delivered": true' }).waitFor();
      const shell = (await page.locator("pre", { hasText: "curl" }).textContent()) ?? "";
      expect(shell).not.toContain(SHARED_SECRET);
      expect(asked.filter((url) => url.includes(SHARED_SECRET))).toEqual([]);

      // The same line in a shell sends the same result.
      const { stdout } = await promisify(execFile)("sh", ["-c", shell], {
        env: { PATH: process.env.PATH ?? "", WEBHOOK_SECRET: SHARED_SECRET },
      });
      expect(JSON.parse(stdout)).toMatchObject({ status: "duplicate", delivered: true });
    });

    test("signs with a key", async () => {
      const { page } = await openConsole({ hash: "#/try?conversation=live" });
      const signed = page.waitForRequest((request) => request.url().endsWith("/callback"));
      await page.fill("input[name=webhook-secret]", SIGNING_SECRET);
      await page.press("input[name=webhook-secret]", "Enter");
      const headers = (await signed).headers();
      expect(headers["webhook-signature"]).toMatch(/^v1,/);
      expect(JSON.stringify(headers)).not.toContain(SIGNING_SECRET);
      await page.locator(".answer", { hasText: '"delivered": true' }).waitFor();
    });
  });

  describe("asks again", () => {
    test("only while somebody can see it", async () => {
      const { page, asked } = await openConsole({ hash: "#/sessions" });
      await page.locator("li.session").first().waitFor();
      const shows = (isHidden: boolean) =>
        page.evaluate((isHidden) => {
          Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }, isHidden);
      await shows(true);
      asked.length = 0;
      await page.clock.fastForward(20 * POLL_MS);
      await page.clock.fastForward(20 * POLL_MS);
      expect(asked).toEqual([]);
      const next = page.waitForRequest("**/console/api/sessions*");
      await shows(false);
      await next;
    });

    test("ever more rarely where nobody answers, and says so", async () => {
      const { page } = await openConsole({ hash: "#/sessions" });
      await page.locator("li.session").first().waitFor();
      let tries = 0;
      await page.route("**/console/api/**", (route) => {
        tries += 1;
        return route.abort();
      });
      await page.clock.fastForward(POLL_MS);
      await page.locator("#live", { hasText: "cannot be reached. Next try in 10 s." }).waitFor();
      expect(await page.locator("li.session").count()).toBeGreaterThan(0);
      await page.clock.fastForward(POLL_MS);
      expect(tries).toBe(1);
      await page.clock.fastForward(POLL_MS);
      await page.locator("#live", { hasText: "Next try in 20 s." }).waitFor();
      await page.unroute("**/console/api/**");
      await page.clock.fastForward(20_000);
      await page.locator("#live", { hasText: "Live" }).waitFor();
    });
  });

  test("can be used without a mouse", async () => {
    const { page } = await openConsole();
    await heading(page, "Results");
    await page.reload();
    await heading(page, "Results");
    await page.keyboard.press("Tab");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("skip");
    await page.keyboard.press("Enter");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("main");
    await page.keyboard.press("Tab");
    const focused = await page.evaluate(() => {
      const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement ?? document.body);
      return [document.activeElement?.getAttribute("name"), outlineStyle, outlineWidth];
    });
    expect(focused).toEqual(["status", "solid", "2px"]);
    expect(await page.locator("nav a[aria-current=page]").textContent()).toBe("Results");
  });

  describe.each(["light", "dark"] as const)("in %s", (colorScheme) => {
    test.each(["gate", ...VIEWS])("%s has no fault that axe finds, and fits 320 pixels", async (hash) => {
      await callBack("live");
      await callBack("away");
      const { page, complaints } = await openConsole({
        width: 320,
        colorScheme,
        ...(hash === "gate" ? { token: null } : { hash }),
      });
      if (hash !== "gate")
        await page
          .locator("console-results, console-sessions, console-conversations, console-health, console-try")
          .waitFor();
      await page.waitForLoadState("networkidle");
      for (const opener of await page.locator("li.result button.open").all()) {
        await opener.click();
        if ((await page.locator("li.result.is-open").count()) > 1) break;
      }
      const { width, ink, paper } = await page.evaluate(() => {
        const { color, backgroundColor } = getComputedStyle(document.body);
        return { width: document.documentElement.scrollWidth, ink: color, paper: backgroundColor };
      });
      expect(width).toBeLessThanOrEqual(320);
      const lightness = (color: string) => Math.max(...(color.match(/\d+/g) ?? []).map(Number));
      expect(Math.sign(lightness(paper) - lightness(ink))).toBe(colorScheme === "light" ? 1 : -1);
      for (const size of [320, 1100]) {
        await page.setViewportSize({ width: size, height: 720 });
        expect(await faultsOf(page)).toEqual([]);
      }
      if (hash === "#/results") {
        await page.click("text=Hand over what failed…");
        await page.locator("dialog >> text=Continue").click();
        expect(await faultsOf(page)).toEqual([]);
      }
      expect(complaints).toEqual([]);
    });
  });
});

type Axe = {
  run(): Promise<{ violations: { id: string; nodes: { html: string; failureSummary?: string }[] }[] }>;
};

async function faultsOf(page: Page): Promise<string[]> {
  // The policy of the page lets no script in; the debugger needs no leave.
  await page.evaluate(AXE);
  return page.evaluate(async () => {
    const { violations } = await (window as unknown as { axe: Axe }).axe.run();
    return violations.flatMap(({ id, nodes }) =>
      nodes.map(({ html, failureSummary }) => `${id}: ${html}\n${failureSummary}`),
    );
  });
}

/** A result as the log of settled ones has it, by its place. */
function settled(place: number) {
  const at = new Date(Date.UTC(2026, 0, 1) + place * 1_000).toISOString();
  return {
    id: String(place),
    conversationId: `made-${place % 7}`,
    requestId: `made-${place}`,
    status: "delivered",
    delivery: "when_idle",
    channel: "relay",
    receivedAt: at,
    settledAt: at,
    attempts: [{ at, channel: "relay", outcome: "delivered" }],
  };
}

/** As a field for date and time takes it. */
function localText(date: Date): string {
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}
