/** Draws a visit: what was said, how the connections are, and what came by them. */
import type { Push } from "../../client/index.ts";
import type { PageName } from "./backend.ts";
import {
  createBackend,
  type ShownMessage,
  type ShownTask,
  standOf,
  startVisit,
  type Visit,
  type VisitStatus,
} from "./visit.ts";

const LATER_MS = 5_000;
const SPEAKERS: Record<ShownMessage["from"], string> = { user: "You", agent: "Agent", task: "Task" };

function element<T extends HTMLElement>(id: string, kind: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`The page has no ${id}.`);
  return found;
}

const transcript = element("transcript", HTMLOListElement);
const input = element("text", HTMLInputElement);
const silently = element("silently", HTMLInputElement);
const note = element("note", HTMLElement);
const taskList = element("tasks", HTMLUListElement);
const agentFact = element("agent", HTMLElement);
/** Both of the relay only. */
const lineFact = document.getElementById("line");
const lastPush = document.getElementById("push");

/** The key comes with the address that `npm start` prints, and stays with this tab. */
function readKey(): string {
  const given = location.hash.slice(1);
  if (given !== "") sessionStorage.setItem("key", given);
  return given || (sessionStorage.getItem("key") ?? "");
}

function showMessage({ from, text }: ShownMessage): void {
  const item = document.createElement("li");
  item.className = from;
  const speaker = document.createElement("b");
  speaker.textContent = SPEAKERS[from];
  const words = document.createElement("span");
  words.textContent = text;
  item.append(speaker, " ", words);
  transcript.append(item);
  item.scrollIntoView({ block: "nearest" });
}

function showStatus({ agent, reason, line }: VisitStatus): void {
  agentFact.textContent = reason === "" ? agent : `${agent} (${reason})`;
  agentFact.dataset.state = agent;
  if (lineFact === null) return;
  lineFact.textContent = line;
  lineFact.dataset.state = line ?? "";
}

function showTasks(tasks: readonly ShownTask[], cancel: (taskId: string) => void): void {
  taskList.replaceChildren(
    ...tasks.map((task) => {
      const item = document.createElement("li");
      item.dataset.state = task.status;
      item.append(`${task.tool}: ${standOf(task)}`);
      if (task.status === "processing") {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = "Cancel";
        button.addEventListener("click", () => cancel(task.taskId));
        item.append(" ", button);
      }
      return item;
    }),
  );
}

function showPush(push: Push): void {
  if (lastPush !== null) lastPush.textContent = JSON.stringify(push, null, 2);
}

async function finishTask(visit: Visit, afterMs: number): Promise<void> {
  note.textContent = afterMs > 0 ? "The task is running…" : "The task has finished…";
  try {
    const { status, channel, reason } = await visit.finishTask({
      afterMs,
      ...(silently.checked && { delivery: "silent" }),
    });
    note.textContent = `Its runner was told: ${[status, channel, reason].filter(Boolean).join(", ")}.`;
  } catch (error) {
    note.textContent = String(error);
  }
}

async function cancelTask(visit: Visit, taskId: string): Promise<void> {
  await visit.cancelTask(taskId).catch((error: unknown) => {
    note.textContent = String(error);
  });
}

async function main(): Promise<void> {
  const address = new URL(location.href);
  const key = readKey();
  for (const link of document.querySelectorAll<HTMLAnchorElement>("nav a")) link.hash = key;
  const visit = await startVisit({
    channel: document.body.dataset.channel as PageName,
    backend: createBackend(location.origin, key),
    conversationId: address.searchParams.get("conversation") ?? undefined,
    onMessage: showMessage,
    onStatus: showStatus,
    onTasks: (tasks) => showTasks(tasks, (taskId) => void cancelTask(visit, taskId)),
    onPush: showPush,
  });
  // A reload comes back to the same conversation.
  address.searchParams.set("conversation", visit.conversationId);
  address.hash = key;
  history.replaceState(null, "", address);
  element("conversation", HTMLElement).textContent = visit.conversationId;

  element("say", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    if (visit.say(input.value)) input.value = "";
    else visit.start();
  });
  element("finish", HTMLButtonElement).addEventListener("click", () => void finishTask(visit, 0));
  element("finish-later", HTMLButtonElement).addEventListener(
    "click",
    () => void finishTask(visit, LATER_MS),
  );
  addEventListener("online", () => visit.start());
  // A browser that keeps the page for whoever comes back keeps its sockets, too: nobody would hear the agent.
  addEventListener("pagehide", () => visit.rest());
  addEventListener("pageshow", (event) => event.persisted && visit.start());
}

main().catch((error: unknown) => {
  note.textContent = error instanceof Error ? error.message : String(error);
});
