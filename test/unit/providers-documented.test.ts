/** What is written of providers, held against what there is. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { VARIABLE_NAMES } from "../../lib/config.ts";
import { PROOFS } from "../../lib/push/channel.ts";
import { PROVIDER_NAMES, PROVIDERS } from "../../lib/push/providers.ts";

const readme = readFileSync("README.md", "utf8");

describe.each(PROVIDER_NAMES)("%s", (name) => {
  const { account, proof } = PROVIDERS[name];
  const row = readme.split("\n").find((line) => line.startsWith(`| \`${name}\``)) ?? "";

  test("has a row in the README that names its key and what it proves", () => {
    expect(row).toContain(`\`${account}_API_KEY\``);
    expect(row).toContain(`\`${proof}\``);
  });

  test("proves nothing that only a page can know", () => {
    expect(PROOFS).toContain(proof);
    expect(proof).not.toBe("heard");
  });

  test("has its two variables, which the README names", () => {
    for (const variable of [`${account}_API_KEY`, `${account}_API_URL`]) {
      expect(VARIABLE_NAMES).toContain(variable);
      expect(readme).toContain(`\`${variable}\``);
    }
  });
});

test("the example of how one is added is the file as it stands", () => {
  const added = readFileSync("lib/push/ultravox.ts", "utf8").trimEnd().split("\n");
  const shown = readFileSync("docs/providers.md", "utf8");
  expect(shown).toContain(
    `@@ -0,0 +1,${added.length} @@\n${added.map((line) => `+${line}`).join("\n")}\n\`\`\``,
  );
});
