/** What a process has cost so far, from /proc, so this is for Linux. */
import { readdir, readFile } from "node:fs/promises";

/**
 * CPU time of a process since its start, all threads and the kernel's work for them included, in ms. To the nanosecond
 * from each thread's `schedstat`; where the kernel keeps none, in the hundredths of a second of proc_pid_stat(5). What
 * threads that have ended took is in the latter only; servers keep theirs.
 */
export async function cpuMsOf(pid: number): Promise<number> {
  try {
    const threads = await readdir(`/proc/${pid}/task`);
    const times = await Promise.all(
      threads.map(async (thread) => {
        const text = await readFile(`/proc/${pid}/task/${thread}/schedstat`, "utf8").catch(() => "0");
        return Number(text.split(" ")[0]) / 1e6;
      }),
    );
    const sum = times.reduce((total, ms) => total + ms, 0);
    return sum > 0 ? sum : await ticksMsOf(pid);
  } catch {
    return ticksMsOf(pid);
  }
}

/** USER_HZ is 100 wherever Node runs (proc_pid_stat(5)). */
const TICK_MS = 10;

/** The fourteenth and fifteenth field; the second is the command in parentheses, which may hold anything. */
async function ticksMsOf(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
}

/** Memory of the process that is in RAM, in bytes. */
export async function rssBytesOf(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
}
