import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Files that take long though they are short, most of the time waiting: begun last, they would hold up the end. */
const FIRST = ["worker/hangup", "worker/relay-objects", "browser/console", "worker/two-instances"];

/** The largest file first, as by default, but before them those above. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const isFirst = ({ moduleId }: TestSpecification) =>
      FIRST.some((name) => moduleId.endsWith(`/test/${name}.test.ts`));
    const sorted = await super.sort(files);
    return [...sorted.filter(isFirst), ...sorted.filter((file) => !isFirst(file))];
  }
}

export default defineConfig({
  test: {
    globalSetup: "test/support/build.ts",
    include: ["test/**/*.test.ts"],
    // Much of a test here is waiting for another process, so a few more of them than cores get on well together.
    maxWorkers: 3,
    maxConcurrency: 3,
    testTimeout: 20_000,
    hookTimeout: 30_000,
    sequence: { sequencer: LongestFirst },
  },
});
