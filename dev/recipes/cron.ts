/** A runner of a table and a cron job: the door writes down what comes, and every minute somebody does what is due. */
import { DatabaseSync } from "node:sqlite";
import { Webhook } from "standardwebhooks";

export type Job = {
  taskId: string;
  tool: string;
  args: Record<string, unknown>;
  callbackUrl: string;
  deadline: string;
};
type Message = Job | { type: string; data: { taskId: string } };
export type Secrets = { signing: string; webhook: string };

/** Longer than any work takes: by then whoever took a job has died with it. */
const LEASE_MS = 10 * 60_000;

/** `due_at` is null for what is over. An `outcome` is what was worked out and could not be told yet. */
export function openJobs(path: string): DatabaseSync {
  const jobs = new DatabaseSync(path);
  jobs.exec(`CREATE TABLE IF NOT EXISTS jobs
    (task_id TEXT PRIMARY KEY, job TEXT NOT NULL, deadline TEXT NOT NULL, outcome TEXT, due_at INTEGER)`);
  return jobs;
}

/** What TOOL_RUNNER_URL leads to: the body as it came, and the headers. Returns the status to answer, at once. */
export function take(jobs: DatabaseSync, body: string, headers: Record<string, string>, secrets: Secrets) {
  try {
    const message = new Webhook(secrets.signing).verify(body, headers) as Message;
    if ("taskId" in message) {
      const { taskId, deadline } = message;
      // Once, however often it comes.
      jobs.prepare("INSERT OR IGNORE INTO jobs VALUES (?, ?, ?, NULL, 0)").run(taskId, body, deadline);
    } else if (message.type === "task.cancelled") over(jobs, message.data.taskId);
    return 202;
  } catch {
    return 401;
  }
}

/** What cron calls every minute: does everything that is due. Two of them at once share the jobs. */
export async function drain(jobs: DatabaseSync, work: (job: Job) => Promise<unknown>, secrets: Secrets) {
  const next = jobs.prepare(`UPDATE jobs SET due_at = ?1 + ${LEASE_MS} WHERE task_id =
    (SELECT task_id FROM jobs WHERE due_at <= ?1 ORDER BY rowid LIMIT 1) RETURNING job, outcome`);
  jobs.prepare("DELETE FROM jobs WHERE deadline < ?").run(new Date().toISOString());
  for (let row = next.get(Date.now()); row !== undefined; row = next.get(Date.now())) {
    const job = JSON.parse(String(row.job)) as Job;
    const outcome = row.outcome ?? JSON.stringify(await outcomeOf(work(job)));
    // Before it is told, so that the work is not done again.
    jobs.prepare("UPDATE jobs SET outcome = ? WHERE task_id = ?").run(outcome, job.taskId);
    const afterMs = await callBack(job, String(outcome), secrets);
    if (afterMs === null) over(jobs, job.taskId);
    else {
      const again = jobs.prepare("UPDATE jobs SET due_at = ? WHERE task_id = ? AND due_at IS NOT NULL");
      again.run(Date.now() + afterMs, job.taskId);
    }
  }
}

function over(jobs: DatabaseSync, taskId: string): void {
  jobs.prepare("UPDATE jobs SET due_at = NULL WHERE task_id = ?").run(taskId);
}

function outcomeOf(work: Promise<unknown>): Promise<object> {
  return work.then(
    (output) => ({ success: true, output }),
    (error) => ({ success: false, error: String(error) }),
  );
}

/** Returns after how many ms to try again; null where that would change nothing. */
async function callBack({ callbackUrl, taskId, tool }: Job, outcome: string, { webhook }: Secrets) {
  const response = await fetch(callbackUrl, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${webhook}` },
    body: JSON.stringify({ requestId: taskId, toolName: tool, ...JSON.parse(outcome) }),
  }).catch(() => null);
  if (response !== null && response.status < 500 && response.status !== 429) return null;
  return 1000 * (Number(response?.headers.get("retry-after")) || 60);
}
