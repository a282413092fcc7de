/** A hang-up: what becomes of the work when everybody has gone. The object's clock is the runtime's, so this takes half a minute. */
import { expect, test } from "vitest";
import { openPage } from "../support/page.ts";
import { startRunner } from "../support/runner.ts";
import { OUTBOUND_SECRET } from "../support/secrets.ts";
import { LOCAL_BINDINGS, startWorker } from "../support/worker.ts";

const API = "/agent-conversations/api";

test("30 s after the last page has gone a task that is not wanted then is cancelled, and others go on", async () => {
  const runner = await startRunner(OUTBOUND_SECRET);
  const worker = await startWorker({
    ...LOCAL_BINDINGS,
    TOOL_RUNNER_URL: runner.url,
    SIGNING_SECRET: OUTBOUND_SECRET,
  });
  const tasksOf = async (id: string) => {
    const response = await worker.fetch(`${API}/${id}/tasks`);
    return ((await response.json()) as { tasks: { tool: string; status: string }[] }).tasks;
  };
  try {
    for (const id of ["gone", "back"]) {
      const page = await openPage(worker.url, id);
      await page.hello();
      for (const [tool, onHangup] of [
        ["stop", "cancel"],
        ["go", "continue"],
      ]) {
        await worker.fetch("/agent-tools", { json: { tool, conversationId: id, onHangup } });
      }
      page.vanish();
    }
    const back = await openPage(worker.url, "back");
    await back.hello();
    await expect
      .poll(() => tasksOf("gone"), { timeout: 45_000, interval: 500 })
      .toMatchObject([
        { tool: "go", status: "processing" },
        { tool: "stop", status: "cancelled" },
      ]);
    expect(await tasksOf("back")).toMatchObject([{ status: "processing" }, { status: "processing" }]);
    expect(await runner.message(({ type }) => type === "task.cancelled")).toMatchObject({
      data: { conversationId: "gone", reason: "hangup" },
    });
    back.vanish();
  } finally {
    await worker.close();
    await runner.close();
  }
}, 60_000);
