/** What the codes of problems mean, and which headers an answer with one always has. */
import { type ProblemCode, STATUS_OF_CODE } from "../functions/problem-codes.ts";

type ProblemText = { means: string; headers?: readonly string[] };

export const PROBLEMS: Record<ProblemCode, ProblemText> = {
  invalid_request: { means: "The request has another shape; errors says where." },
  invalid_id: { means: "The id in the path can be none." },
  unauthorized: { means: "There is no credential, or none that is valid.", headers: ["www-authenticate"] },
  forbidden: {
    means:
      "The credential is for another conversation or another kind of request, or what it asks for is not listed.",
  },
  not_found: { means: "There is nothing at this path." },
  session_not_found: { means: "The conversation has no live session." },
  conversation_not_found: { means: "There is no such conversation." },
  state_not_found: { means: "The conversation has no state." },
  memory_not_found: { means: "The conversation has no memory." },
  task_not_found: { means: "The conversation has no such task." },
  method_not_allowed: { means: "The path takes other methods.", headers: ["allow"] },
  session_replaced: { means: "The registration is not, or no longer, the current one." },
  conversation_deleted: { means: "The conversation was deleted within the last 48 hours." },
  payload_too_large: { means: "The body, or the record it would make, is too large." },
  unsupported_media_type: {
    means: "The body is not application/json, or is compressed; then accept-encoding says so.",
  },
  misdirected_request: { means: "Authentication is off, so nobody but the machine itself is answered." },
  upgrade_required: { means: "The path is a WebSocket." },
  session_url_not_allowed: { means: "The session's URL may not be dialled." },
  request_id_reused: { means: "The requestId was used before, for another result." },
  rate_limited: { means: "Too many requests.", headers: ["retry-after"] },
  internal_error: { means: "Something went wrong here; the requestId finds it in the logs." },
  provider_refused: { means: "ElevenLabs does not let this agent be started." },
  provider_unavailable: { means: "ElevenLabs did not answer.", headers: ["retry-after"] },
  feature_disabled: { means: "The feature is switched off." },
  misconfigured: {
    means: "The service, or the secret that the route needs, is not configured; its log says more.",
  },
  storage_unavailable: {
    means: "The storage did not answer, and nothing was acknowledged.",
    headers: ["retry-after"],
  },
};

/** Headers that only some answers with a code have. */
export const MAYBE_HEADERS: { [C in ProblemCode]?: readonly string[] } = {
  unsupported_media_type: ["accept-encoding"],
  upgrade_required: ["upgrade"],
};

export const PROBLEM_CODES = Object.keys(STATUS_OF_CODE) as ProblemCode[];

/** Those that whatever is sent to a path or with a method of nobody's is answered with. */
export const ELSEWHERE: readonly ProblemCode[] = [
  "not_found",
  "method_not_allowed",
  "misdirected_request",
  "rate_limited",
  "feature_disabled",
  "misconfigured",
  "internal_error",
];
