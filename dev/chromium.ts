/** Chromium, headless, in a profile that is empty and goes with it. It reaches out to nobody by itself. */
import { existsSync } from "node:fs";
import { type Browser, chromium } from "playwright-core";

const PLACES = [
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

/** Where it is: CHROMIUM, or where a package puts it; null where there is none. */
export function findChromium(): string | null {
  const places = [process.env.CHROMIUM ?? "", ...PLACES];
  return places.find((path) => path !== "" && existsSync(path)) ?? null;
}

export function launchChromium(executablePath: string): Promise<Browser> {
  return chromium.launch({
    executablePath,
    // Playwright switches it off; whoever presses "back" has it.
    ignoreDefaultArgs: ["--disable-back-forward-cache"],
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}
