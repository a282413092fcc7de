/** A page with the client on it, before an edge of its own. */
import { afterEach } from "vitest";
import {
  type AgentSessionOptions,
  type AgentSessionStatus,
  openAgentSession,
  type Push,
} from "../../../client/agent-session.ts";
import { testConversation } from "./conversation.ts";
import { type Edge, startEdge } from "./edge.ts";
import { type TestPage, testPage } from "./page.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

type VisitOptions = {
  page?: TestPage;
  edge?: Edge;
  conversation?: ReturnType<typeof testConversation>;
  getToken?: () => string | Promise<string>;
} & Pick<AgentSessionOptions, "onPush" | "onProgress" | "onStatus">;

/** The edge is stopped and the client closed when the test is over. */
export async function visit({ page = testPage(), edge, conversation, ...options }: VisitOptions = {}) {
  const ours = edge ?? (await startEdge());
  if (edge === undefined) cleanups.push(() => ours.stop());
  const statuses: AgentSessionStatus[] = [];
  const pushes: Push[] = [];
  const { session, leave } = openAgentSession(page, {
    baseUrl: ours.baseUrl,
    conversationId: "c1",
    getToken: options.getToken ?? (() => "token-1"),
    onStatus(status) {
      statuses.push(status);
      options.onStatus?.(status);
    },
    onProgress: (progress) => options.onProgress?.(progress),
    onPush(push) {
      pushes.push(push);
      options.onPush?.(push);
    },
  });
  cleanups.push(() => session.close());
  return {
    page,
    edge: ours,
    session,
    leave,
    statuses,
    pushes,
    conversation: conversation ?? testConversation(),
  };
}

/** As `visit`, attached and welcomed. */
export async function liveVisit(options: VisitOptions = {}) {
  const there = await visit(options);
  const attached = there.session.attach(there.conversation);
  const { line, hello } = await there.edge.welcomed();
  await attached;
  return { ...there, line, hello };
}
