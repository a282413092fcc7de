/**
 * Commands of Redis, as Upstash's own client builds them. It sends none of them: a transaction of its own is an object
 * with a function for each of two hundred commands, built anew each time. One client serves all, because it holds nothing
 * but the commands' names.
 */
import { Redis } from "@upstash/redis/cloudflare";

/** Name and arguments. */
export type UpstashCommand = readonly unknown[];

let built: UpstashCommand = [];
/** What the client is answered, whatever it asks. */
const ANSWER = Promise.resolve({ result: null });
/** Made when first needed. */
let client: Redis | undefined;

function makeClient(): Redis {
  const redis = new Redis({
    url: "https://nowhere.invalid",
    token: "none",
    // Each command is built when it is asked for.
    enableAutoPipelining: false,
    // What is read is the text that was written: "123" stays text.
    automaticDeserialization: false,
    enableTelemetry: false,
  });
  redis.use(({ body }) => {
    built = body as UpstashCommand;
    return ANSWER;
  });
  return redis;
}

/** The one command that `build` asks the client for. */
export function commandOf(build: (redis: Redis) => unknown): UpstashCommand {
  client ??= makeClient();
  build(client);
  return built;
}
