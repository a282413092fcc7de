/** `npm run demo:providers`, as its reader runs it. */
import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { PROVIDER_NAMES } from "../../lib/push/providers.ts";

test("the demo tells one result to each provider, and ends by itself", { timeout: 120_000 }, () => {
  const { status, stdout, stderr } = spawnSync(process.execPath, ["dev/demo-providers.ts"], {
    encoding: "utf8",
    timeout: 110_000,
  });
  expect({ status, stderr }).toMatchObject({ status: 0 });
  const told = stdout.split("\n").filter((line) => line.includes("the sender is answered"));
  expect(told.map((line) => JSON.parse(line.slice(line.indexOf("{"))))).toMatchObject(
    PROVIDER_NAMES.map((channel) => ({ status: "delivered", channel })),
  );
  expect(stdout.match(/Your table is booked for eight\./g)).toHaveLength(PROVIDER_NAMES.length);
});
