import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    globalSetup: "test/support/build.ts",
    include: ["test/**/*.test.ts"],
    // Much of a test here is waiting for another process, so a few more of them than cores get on well together.
    maxWorkers: 3,
    maxConcurrency: 3,
    testTimeout: 20_000,
    hookTimeout: 30_000,
  },
});
