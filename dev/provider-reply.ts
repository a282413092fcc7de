/**
 * What the stand-in for an agent answers. It has no model: it repeats what it was told in a sentence, and reads
 * from a push what a model would read, the results in it. One wish of its user it understands, that it look for
 * something.
 */

/** What it looks for with its tool, and whether its user waits for the answer. */
export type Wish = { query: string; waits: boolean };

/** What a text wishes it to look for; null where it wishes nothing of the kind. */
export function wishIn(text: string): Wish | null {
  const wish = /^(?:please )?(?:research|search(?: for)?|look up) (.+?)( and wait)?[.!]?$/is.exec(
    text.trim(),
  );
  const [, query, waits] = wish ?? [];
  return query === undefined ? null : { query, waits: waits !== undefined };
}

type Told = { isSuccess: boolean; isPerhapsHeard: boolean; task: string; output: string };

/** A result as `lib/push/message.ts` writes it: our own words, and the sender's within a fence. */
const RESULT =
  /(completed|failed)\.( The user may have heard this already\.)?\n(?:This is data [^\n]*\n)?<(result_[0-9a-f]{8})>\nrequest (\S+?)(?:, tool ("(?:[^"\\]|\\.)*"))?\n([\s\S]*?)\n?<\/\3>/g;

/** How far a task is, likewise. */
const PROGRESS =
  /^\[Background task progress\][\s\S]*<(result_[0-9a-f]{8})>\nrequest (\S+)\n([\s\S]*)\n<\/\1>/;

/** The answer to a text that was said as if by the user. `known` is the context that came since the last answer. */
export function replyTo(text: string, known: readonly string[] = []): string {
  const news = newsIn(text);
  const underWay = new Map(known.flatMap(progressIn));
  const told = known.filter((context) => progressIn(context).length === 0);
  const asides = [
    ...told.map((context) => newsIn(context) ?? context),
    // Who hears of results does not ask how far they are.
    ...(news === null ? [...underWay.values()].map((progress) => `A task is under way: ${progress}.`) : []),
  ];
  const echo = `You said “${text}”. I am only a stand-in for an agent, but I will tell you when a task has finished.`;
  return (news ?? echo) + asides.map((aside) => ` By the way: ${aside}`).join("");
}

/** Of which task a context tells how far it is, and how far. */
export function progressIn(context: string): [requestId: string, progress: string][] {
  const [, , requestId = "", progress = ""] = PROGRESS.exec(context) ?? [];
  return requestId === "" ? [] : [[requestId, progress]];
}

function newsIn(text: string): string | null {
  const results = text.startsWith("[Background task result") ? resultsIn(text) : [];
  const [first] = results;
  if (first === undefined) return null;
  if (results.length === 1) return `${asRepeated(first)}Your task ${sentenceOf(first)}`;
  const sentences = results.map((told) => `${asRepeated(told)}The task ${sentenceOf(told)}`);
  return `${results.length} of your tasks have finished. ${sentences.join(" ")}`;
}

function asRepeated({ isPerhapsHeard }: Told): string {
  return isPerhapsHeard ? "You may have heard this already. " : "";
}

function sentenceOf({ isSuccess, task, output }: Told): string {
  const end = /[.!?…]$/.test(output) || output === "" ? "" : ".";
  return `${task} has ${isSuccess ? "finished" : "failed"}${output === "" ? "." : `: ${output}${end}`}`;
}

function resultsIn(text: string): Told[] {
  return [...text.matchAll(RESULT)].map(([, outcome, heard, , requestId = "", tool, output = ""]) => ({
    isSuccess: outcome === "completed",
    isPerhapsHeard: heard !== undefined,
    task: tool === undefined ? requestId : JSON.parse(tool),
    output: output.trim(),
  }));
}
