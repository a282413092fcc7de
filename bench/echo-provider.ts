/**
 * A provider in a thread of its own, so that being woken is part of every way that a frame takes. It answers each frame
 * with one of the same size: the user's audio with the agent's, anything else with a ping. Posts its URL when it listens.
 */
import { parentPort } from "node:worker_threads";
import { metadata, type ProviderConversation, startProvider } from "../test/support/provider.ts";
import { AGENT_AUDIO, PING, USER_AUDIO } from "./frames.ts";

function greet({ agentSessionId, say, socket, frames }: ProviderConversation): void {
  say(metadata(agentSessionId));
  socket.on("message", (data) => {
    socket.send((data as Buffer).length === USER_AUDIO.length ? AGENT_AUDIO : PING);
    frames.length = 0;
  });
}

const { url } = await startProvider({ greet });
parentPort?.postMessage(url);
