/**
 * An agent for a laptop: a WebSocket server that speaks the frames of an ElevenLabs conversation and says, in
 * one human line each, what it is told. It has no voice and no model; it shows that a push arrived.
 */
import { randomUUID } from "node:crypto";
import type { AddressInfo } from "node:net";
import type { ConversationMetadata, Outgoing, Ping } from "@elevenlabs/types";
import { type WebSocket, WebSocketServer } from "ws";

/** What a client may send. Audio has no `type`; everything else does. */
export type ClientFrame =
  | Outgoing.UserAudio
  | Outgoing.PongClientToOrchestratorEvent
  | Outgoing.UserMessageClientToOrchestratorEvent
  | Outgoing.UserActivityClientToOrchestratorEvent
  | Outgoing.UserFeedbackClientToOrchestratorEvent
  | Outgoing.ClientToolResultClientToOrchestratorEvent
  | Outgoing.McpToolApprovalResultClientToOrchestratorEvent
  | Outgoing.ContextualUpdateClientToOrchestratorEvent
  | Outgoing.ConversationInitiationClientToOrchestratorEvent
  | Outgoing.MultimodalMessageClientToOrchestratorEvent;

type TypedFrame = Extract<ClientFrame, { type: string }>;
type ServerFrame = ConversationMetadata | Ping;

export type DemoAgentOptions = {
  /** 0, the default, takes any free port. */
  port?: number;
  host?: string;
  /** Called with every well-formed frame, as it arrives. */
  onFrame?: (frame: ClientFrame) => void;
  /** Where the human lines go; standard output by default. */
  log?: (line: string) => void;
};

export type DemoAgent = {
  /** What a browser would register as `sessionUrl`. */
  url: string;
  /** Every well-formed frame since the start, oldest first. */
  frames: ClientFrame[];
  /** Ends all conversations with 1001 and the server with them. */
  close(): Promise<void>;
};

/** How much of a text is printed; onFrame gets it whole. */
const PRINTED_CHARACTERS = 600;

/** No frame of the protocol but audio comes near this. */
const MAX_FRAME_BYTES = 1024 * 1024;

const GOING_AWAY = 1001;
const POLICY_VIOLATION = 1008;

/**
 * Starts the agent. A malformed frame ends its conversation with 1008 "Invalid message received", as
 * ElevenLabs does; a close frame is answered once everything before it has been heard.
 *
 * Throws the server's error if the port is taken.
 */
export async function startDemoAgent(options: DemoAgentOptions = {}): Promise<DemoAgent> {
  const { port = 0, host = "127.0.0.1", onFrame, log = console.log } = options;
  const frames: ClientFrame[] = [];
  const server = new WebSocketServer({
    port,
    host,
    maxPayload: MAX_FRAME_BYTES,
    handleProtocols: (offered) => (offered.has("convai") ? "convai" : false),
  });
  await new Promise<void>((resolve, reject) => {
    server.once("listening", resolve);
    server.once("error", reject);
  });

  server.on("connection", (socket) => {
    greet(socket);
    socket.on("message", (data, isBinary) => {
      const frame = isBinary ? null : parseFrame(data.toString());
      if (frame === null) {
        log("demo agent: could not read a frame, closing the conversation");
        socket.close(POLICY_VIOLATION, "Invalid message received");
        return;
      }
      frames.push(frame);
      const line = describe(frame);
      if (line !== null) log(`demo agent ${line}`);
      onFrame?.(frame);
    });
    // Without a listener a broken connection would end the process; `close` follows and needs no answer.
    socket.on("error", () => {});
  });

  return {
    url: `ws://${host.includes(":") ? `[${host}]` : host}:${(server.address() as AddressInfo).port}/?agent_id=demo`,
    frames,
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of server.clients) {
        socket.close(GOING_AWAY);
        setTimeout(() => socket.terminate(), 500).unref();
      }
      await closed;
    },
  };
}

function greet(socket: WebSocket): void {
  const greetings: ServerFrame[] = [
    {
      type: "conversation_initiation_metadata",
      conversation_initiation_metadata_event: {
        conversation_id: `conv_${randomUUID().replaceAll("-", "")}`,
        agent_output_audio_format: "pcm_16000",
        user_input_audio_format: "pcm_16000",
      },
    },
    { type: "ping", ping_event: { event_id: 1 } },
  ];
  for (const frame of greetings) socket.send(JSON.stringify(frame));
}

/** What each frame must hold. The compiler keeps the table complete. */
const REQUIRED: { [T in TypedFrame["type"]]: (frame: Record<string, unknown>) => boolean } = {
  pong: (frame) => typeof frame.event_id === "number",
  user_message: (frame) => typeof (frame.text ?? frame.rich_content_id) === "string",
  user_activity: () => true,
  feedback: (frame) => typeof frame.event_id === "number" && "score" in frame,
  client_tool_result: (frame) => typeof frame.tool_call_id === "string" && "result" in frame,
  mcp_tool_approval_result: (frame) => typeof frame.tool_call_id === "string",
  contextual_update: (frame) => typeof frame.text === "string",
  conversation_initiation_client_data: () => true,
  multimodal_message: () => true,
};

function parseFrame(text: string): ClientFrame | null {
  try {
    const frame: unknown = JSON.parse(text);
    if (typeof frame !== "object" || frame === null) return null;
    if ("user_audio_chunk" in frame && !("type" in frame)) return frame as ClientFrame;
    const { type } = frame as { type?: unknown };
    if (typeof type !== "string" || !Object.hasOwn(REQUIRED, type)) return null;
    const isComplete = REQUIRED[type as TypedFrame["type"]];
    return isComplete(frame as Record<string, unknown>) ? (frame as ClientFrame) : null;
  } catch {
    return null;
  }
}

/** One line for people, or null for what only keeps the connection going. */
function describe(frame: ClientFrame): string | null {
  if (!("type" in frame)) return null;
  switch (frame.type) {
    case "user_message":
      return `heard: ${oneLine(frame.text ?? `(rich content ${frame.rich_content_id})`)}`;
    case "contextual_update":
      return `was told silently${frame.context_id ? ` (${frame.context_id})` : ""}: ${oneLine(frame.text)}`;
    case "pong":
    case "user_activity":
      return null;
    default:
      return `received a ${frame.type} frame`;
  }
}

function oneLine(text: string): string {
  const line = text.replaceAll(/\s+/g, " ").trim();
  return line.length > PRINTED_CHARACTERS ? `${line.slice(0, PRINTED_CHARACTERS)}…` : line;
}
