/** A Worker behind closed doors, with an account at a fake of every provider besides ElevenLabs. */
import {
  type FakeVoiceProviders,
  startFakeVoiceProviders,
  variablesOf,
} from "../../dev/fake-voice-providers.ts";
import { API_TOKEN, CLOSED_DOORS, SHARED_SECRET } from "./secrets.ts";
import { LOCAL_BINDINGS, startWorker, type TestWorker } from "./worker.ts";

const API = "/agent-conversations/api";
const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

export type VoiceProviders = {
  fake: FakeVoiceProviders;
  worker: TestWorker;
  /** Registers a session, as a server where no other token is given. */
  register(id: string, json: object, token?: string): Promise<Response>;
  /** Sends a result of its own words. */
  callBack(id: string, requestId: string, fields?: object): Promise<Record<string, unknown>>;
  close(): Promise<void>;
};

export async function startVoiceProviders(): Promise<VoiceProviders> {
  const fake = await startFakeVoiceProviders();
  const worker = await startWorker({ ...LOCAL_BINDINGS, ...CLOSED_DOORS, ...variablesOf(fake) });
  return {
    fake,
    worker,
    register: (id, json, token = API_TOKEN) =>
      worker.fetch(`${API}/${id}/session`, { json, headers: bearer(token) }),
    async callBack(id, requestId, fields = {}) {
      const json = { requestId, conversationId: id, output: `output of ${requestId}.`, ...fields };
      const response = await worker.fetch("/callback", { json, headers: bearer(SHARED_SECRET) });
      return (await response.json()) as Record<string, unknown>;
    },
    async close() {
      await worker.close();
      await fake.close();
    },
  };
}
