/**
 * What a session costs, and what breaks first as there are more: from what the bench has counted (`counts.json`) and
 * public price lists, and by a simulation of what cannot be multiplied, the busiest second. `node bench/scale.ts`;
 * with `--write` the tables go into docs/scale.md and the plots beside it.
 */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { PUBLISH_AFTER_MS } from "../lib/live/exchange.ts";
import { seededRandom } from "../test/support/random.ts";
import { markdownOf, printTable, type Table } from "./figures.ts";
import { brief, linePlot } from "./plot.ts";
import { LIMITS, OBJECT_GB, PRICES, PRICES_READ } from "./prices.ts";
import { replaceBetween } from "./write.ts";

const DOCS = join(import.meta.dirname, "../docs");

/** What one request does, as `npm run bench` has counted and measured it. */
export type Count = { commands: number; objectCalls: number; rowsBilled: number; cpuMs: number };
export type Counts = Record<string, Count>;

type Channel = "socket" | "relay" | "proxy";
const CHANNELS: readonly Channel[] = ["socket", "relay", "proxy"];

// --- What a session is taken to be --------------------------------------------------------------------------------

/** Of every session, whatever its channel. */
const SESSION = {
  seconds: 600,
  callbacks: 3,
  /** A page that holds a line says who speaks, and when its user does something. */
  framesOfAPage: 60,
  /** Audio goes through the object of a proxied session: frames from the page a second. */
  audioFramesPerSecond: 40,
  /** A session of a line is renewed by alarm every 240 s. */
  renewals: 2,
};
/** A renewal reads the session, compares and sets it, and sometimes renews the conversation. */
const RENEWAL: Count = { commands: 5, objectCalls: 1, rowsBilled: 3, cpuMs: 1 };
/** A result is given to the log of settled ones a little later, in s; until then its object may not hibernate. */
const LOGGED_AFTER = PUBLISH_AFTER_MS / 1_000;
/** How long an object is awake for a callback: Redis, the agent's closing handshake or the page's acknowledgement, the log; in s. */
const AWAKE_SECONDS: Record<Channel, number> = {
  socket: 0.25 + LOGGED_AFTER,
  relay: 0.2 + LOGGED_AFTER,
  // It is awake all the time.
  proxy: 0,
};
/** What a conversation leaves in Redis for its TTL beyond its messages, in bytes; see "Growth" of bench/README.md. */
const CONVERSATION_BYTES = 3_000;
const CONVERSATION_TTL_DAYS = 30;

type Cost = { [part: string]: number };

function costOf({ commands, objectCalls, rowsBilled, cpuMs }: Count): Cost {
  return {
    "Redis commands": commands * PRICES.redisCommand,
    "rows written": rowsBilled * PRICES.rowWritten,
    "object requests": objectCalls * PRICES.objectRequest,
    "Worker requests": PRICES.workerRequest,
    "CPU time": cpuMs * PRICES.workerCpuMs,
  };
}

const duration = (seconds: number): Cost => ({
  "object duration": seconds * OBJECT_GB * PRICES.objectGbSecond,
});

function sumOf(costs: readonly Cost[]): Cost {
  const sum: Cost = {};
  for (const cost of costs)
    for (const [part, dollars] of Object.entries(cost)) sum[part] = (sum[part] ?? 0) + dollars;
  return sum;
}

const times = (cost: Cost, factor: number): Cost =>
  Object.fromEntries(Object.entries(cost).map(([part, dollars]) => [part, dollars * factor]));

const totalOf = (cost: Cost) => Object.values(cost).reduce((sum, dollars) => sum + dollars, 0);

function countOf(counts: Counts, name: string): Count {
  const count = counts[name];
  if (count === undefined) throw new Error(`counts.json lacks "${name}"; run npm run bench -- --write`);
  return count;
}

function callbackCost(counts: Counts, channel: Channel): Cost {
  const acknowledgement = channel === "relay" ? { "object requests": PRICES.objectRequest / 20 } : {};
  const count = countOf(counts, `callback, by ${channel}`);
  return sumOf([costOf(count), duration(AWAKE_SECONDS[channel]), acknowledgement]);
}

function sessionCost(counts: Counts, channel: Channel): Cost {
  const isLine = channel !== "socket";
  const framesIn =
    channel === "relay" ? SESSION.framesOfAPage : SESSION.audioFramesPerSecond * SESSION.seconds;
  return sumOf([
    costOf(countOf(counts, "register, new")),
    times(callbackCost(counts, channel), SESSION.callbacks),
    isLine ? times(costOf(RENEWAL), SESSION.renewals) : {},
    isLine ? { "object requests": (framesIn / 20) * PRICES.objectRequest } : {},
    // A socket that the object has opened itself keeps it from hibernating.
    channel === "proxy" ? duration(SESSION.seconds) : {},
  ]);
}

const PARTS = [
  ...["Redis commands", "rows written", "object requests", "object duration"],
  ...["Worker requests", "CPU time"],
];

function costTable(title: string, costs: readonly (readonly [string, Cost])[], per: number): Table {
  const dollars = (value: number) => (value * per).toFixed(2);
  return {
    title,
    header: ["channel", "all", ...PARTS],
    rows: costs.map(([name, cost]) => [
      name,
      dollars(totalOf(cost)),
      ...PARTS.map((part) => dollars(cost[part] ?? 0)),
    ]),
  };
}

// --- The load of so many sessions at a time -----------------------------------------------------------------------

const commandsOfASession = (counts: Counts, channel: Channel) =>
  countOf(counts, "register, new").commands +
  SESSION.callbacks * countOf(counts, `callback, by ${channel}`).commands +
  (channel === "socket" ? 0 : SESSION.renewals * RENEWAL.commands);

/** Commands a second on average, and what stands in Redis for good. */
function loadOf(counts: Counts, sessions: number) {
  const perSecond = sessions / SESSION.seconds;
  const conversationsKept = perSecond * 86_400 * CONVERSATION_TTL_DAYS;
  return {
    registrations: perSecond,
    callbacks: perSecond * SESSION.callbacks,
    commands: perSecond * commandsOfASession(counts, "relay"),
    bytes: conversationsKept * CONVERSATION_BYTES,
    indexEntries: conversationsKept,
  };
}

function loadTable(counts: Counts): Table {
  return {
    title: "What so many relay sessions at a time ask for",
    header: [
      ...["sessions", "registrations/s", "callbacks/s", "Redis commands/s", "databases by commands"],
      ...["conversations kept 30 days", "GB in Redis", "databases by size"],
    ],
    rows: [1e3, 1e4, 1e5, 1e6, 1e7].map((sessions) => {
      const { registrations, callbacks, commands, bytes, indexEntries } = loadOf(counts, sessions);
      return [
        ...[brief(sessions), brief(registrations), brief(callbacks), brief(commands)],
        String(Math.ceil(commands / LIMITS.redisCommandsPerSecond)),
        ...[brief(indexEntries), brief(bytes / 1e9)],
        String(Math.ceil(bytes / LIMITS.redisBytes)),
      ];
    }),
  };
}

// --- The simulation -----------------------------------------------------------------------------------------------

const SIMULATED_SECONDS = 3_600;

/** What happens to all sessions at once in the middle of the hour. */
type Event = "none" | "deployment";

/**
 * Commands in each second of an hour. Sessions begin at random and last 600 s; callbacks come at random; a line is
 * renewed 240 s after it was registered. A deployment drops every line at once: all of them are back within
 * `reconnectSeconds`, evenly, because the client's pauses are jittered.
 */
export function simulate(
  counts: Counts,
  { sessions, event, reconnectSeconds = 10 }: { sessions: number; event: Event; reconnectSeconds?: number },
): { mean: number; busiest: number; delayedSeconds: number } {
  const random = seededRandom(sessions);
  const seconds = new Float64Array(SIMULATED_SECONDS);
  const note = (at: number, commands: number) => {
    const second = Math.floor(at);
    if (second >= 0 && second < SIMULATED_SECONDS) seconds[second] = (seconds[second] ?? 0) + commands;
  };
  const register = countOf(counts, "register, new").commands;
  const callback = countOf(counts, "callback, by relay").commands;
  const dropsAt = SIMULATED_SECONDS / 2;
  // Sessions that began before the hour are in it too.
  const all = Math.round((sessions * (SIMULATED_SECONDS + SESSION.seconds)) / SESSION.seconds);
  for (let i = 0; i < all; i++) {
    const begin = random() * (SIMULATED_SECONDS + SESSION.seconds) - SESSION.seconds;
    const end = begin + SESSION.seconds;
    note(begin, register);
    for (let n = 0; n < SESSION.callbacks; n++) note(begin + random() * SESSION.seconds, callback);
    const isDropped = event === "deployment" && begin < dropsAt && dropsAt < end;
    const back = isDropped ? dropsAt + random() * reconnectSeconds : null;
    for (let at = begin + 240; at < end; at += 240)
      if (back === null || at < dropsAt) note(at, RENEWAL.commands);
    if (back !== null) {
      note(back, register);
      for (let at = back + 240; at < end; at += 240) note(at, RENEWAL.commands);
    }
  }
  // What one database does not take in a second waits for the next.
  let waiting = 0;
  let longest = 0;
  for (const commands of seconds) {
    waiting = Math.max(0, waiting + commands - LIMITS.redisCommandsPerSecond);
    longest = Math.max(longest, waiting / LIMITS.redisCommandsPerSecond);
  }
  return {
    mean: seconds.reduce((sum, commands) => sum + commands, 0) / SIMULATED_SECONDS,
    busiest: Math.max(...seconds),
    delayedSeconds: longest,
  };
}

const SIMULATED = [1e3, 1e4, 1e5, 2e5, 4e5];

function simulationTable(counts: Counts): Table {
  return {
    title: "An hour, simulated: Redis commands a second over one database",
    header: [
      ...["sessions", "mean", "busiest second", "busiest, all lines dropped once"],
      ...["longest delay, s", "longest delay, all lines dropped once, s"],
    ],
    rows: SIMULATED.map((sessions) => {
      const [quiet, dropped] = (["none", "deployment"] as const).map((event) =>
        simulate(counts, { sessions, event }),
      );
      return [
        ...[brief(sessions), brief(quiet?.mean ?? 0), brief(quiet?.busiest ?? 0)],
        ...[brief(dropped?.busiest ?? 0)],
        ...[quiet, dropped].map((run) => (run?.delayedSeconds ?? 0).toFixed(1)),
      ];
    }),
  };
}

// --- The run ------------------------------------------------------------------------------------------------------

async function run(): Promise<void> {
  const counts = JSON.parse(await readFile(join(import.meta.dirname, "counts.json"), "utf8")) as Counts;
  const each = <T>(of: (channel: Channel) => T) => CHANNELS.map((channel) => [channel, of(channel)] as const);
  const tables = [
    costTable(
      "Dollars a million delivered callbacks",
      each((channel) => callbackCost(counts, channel)),
      1e6,
    ),
    costTable(
      `Dollars a million sessions of ten minutes with ${SESSION.callbacks} callbacks`,
      each((channel) => sessionCost(counts, channel)),
      1e6,
    ),
    loadTable(counts),
    simulationTable(counts),
  ];
  for (const table of tables) {
    console.log(`\n${table.title}`);
    printTable(table);
  }
  if (!process.argv.includes("--write")) return;
  const sections = tables.map((table) => `**${table.title}**\n\n${markdownOf(table)}`);
  await replaceBetween(
    join(DOCS, "scale.md"),
    "tables",
    [`Prices read on ${PRICES_READ}.`, ...sections].join("\n\n"),
  );
  const points = (of: (sessions: number) => number) =>
    SIMULATED.map((sessions) => [sessions, of(sessions)] as const);
  const plot = linePlot({
    title: "Redis commands a second by sessions at a time (both scales logarithmic)",
    x: "sessions at a time",
    y: "commands/s",
    isLogarithmic: true,
    series: [
      { name: "mean", points: points((sessions) => simulate(counts, { sessions, event: "none" }).mean) },
      {
        name: "all dropped once",
        points: points((sessions) => simulate(counts, { sessions, event: "deployment" }).busiest),
      },
      { name: "one database", points: points(() => LIMITS.redisCommandsPerSecond) },
    ],
  });
  await writeFile(join(DOCS, "figure-load.svg"), plot);
}

await run();
