/**
 * The description of the API, OpenAPI 3.1, put together from the routes, the schemas that validate and the codes of
 * problems. https://spec.openapis.org/oas/v3.1.1
 */
import { type ProblemCode, STATUS_OF_CODE } from "../functions/problem-codes.ts";
import packageJson from "../package.json" with { type: "json" };
import { componentSchemas, NAMED } from "./named.ts";
import { ELSEWHERE, MAYBE_HEADERS, PROBLEM_CODES, PROBLEMS } from "./problems.ts";
import { type Answer, type Credential, type Parameter, ROUTES, type Route, TAGS } from "./routes.ts";
import { type JsonSchema, type Schema, schemaOf } from "./schemas.ts";
import type {
  Document,
  DocumentedParameter,
  Header,
  MediaType,
  Operation,
  Reference,
  Response,
} from "./shape.ts";
import { UNSPOKEN_HEADERS } from "./shape.ts";

/** What every answer has, whatever it is. */
export const ALWAYS: readonly string[] = ["x-request-id", "cache-control"];

const HEADERS: Record<string, Header> = {
  "x-request-id": {
    description: "Finds the request in the logs. Taken over from the request where it has one.",
    required: true,
    schema: { type: "string" },
  },
  "cache-control": { description: "Nothing is kept.", required: true, schema: { const: "no-store" } },
  "cache-control-of-files": {
    description: "It is kept, and asked for again each time.",
    required: true,
    schema: { const: "no-cache" },
  },
  etag: { description: "Which version it is.", required: true, schema: { type: "string" } },
  "retry-after": {
    description:
      "When to ask again, in seconds. With rate_limited, storage_unavailable, provider_unavailable.",
    schema: { type: "integer", minimum: 1 },
  },
  "www-authenticate": { description: "What is asked for.", required: true, schema: { const: "Bearer" } },
  upgrade: { description: "What the path is.", schema: { const: "websocket" } },
  "accept-encoding": { description: "Where the body was compressed.", schema: { const: "identity" } },
  "sec-websocket-protocol": {
    description: "The subprotocol that was selected.",
    required: true,
    schema: { type: "string" },
  },
  "content-security-policy": {
    description: "Lets the page load and run nothing but its own.",
    required: true,
    schema: { type: "string" },
  },
};

const SECURITY_SCHEMES: Document["components"]["securitySchemes"] = {
  apiToken: { type: "http", scheme: "bearer", description: "The API token, of a server." },
  conversationToken: {
    type: "http",
    scheme: "bearer",
    bearerFormat: "JWT",
    description: "The token of one conversation, of a page. It lives for an hour.",
  },
  subprotocol: {
    type: "apiKey",
    in: "header",
    name: "Sec-WebSocket-Protocol",
    description: "Either of the two, behind bearer. and beside the subprotocol of the route.",
  },
  standardWebhook: {
    type: "apiKey",
    in: "header",
    name: "webhook-signature",
    description: "Standard Webhooks, with webhook-id and webhook-timestamp; up to five minutes old.",
  },
  elevenLabsSignature: {
    type: "apiKey",
    in: "header",
    name: "elevenlabs-signature",
    description: "As ElevenLabs signs; up to 30 minutes old.",
  },
  webhookSecret: {
    type: "http",
    scheme: "bearer",
    description: "The shared secret. Closed by WEBHOOK_REQUIRE_SIGNATURE.",
  },
  elSecret: { type: "apiKey", in: "header", name: "x-el-secret", description: "The shared secret." },
  xWebhookSecret: {
    type: "apiKey",
    in: "header",
    name: "x-webhook-secret",
    description: "The shared secret.",
  },
};

const SECURITY: Record<Credential, readonly string[]> = {
  none: [],
  server: ["apiToken"],
  conversation: ["conversationToken", "apiToken"],
  socket: ["subprotocol", "apiToken"],
  webhook: ["standardWebhook", "elevenLabsSignature", "webhookSecret", "elSecret", "xWebhookSecret"],
};

/** What a credential may be refused with. */
const REFUSALS: Record<Credential, readonly ProblemCode[]> = {
  none: [],
  server: ["unauthorized", "forbidden", "misconfigured"],
  conversation: ["unauthorized", "forbidden", "misconfigured"],
  socket: ["unauthorized", "forbidden", "misconfigured"],
  // A signature is verified over the body, which is read for it.
  webhook: ["unauthorized", "misconfigured", "payload_too_large", "unsupported_media_type"],
};

/** Every code that a route may answer with, in the order of their statuses. */
export function problemsOf(route: Route): ProblemCode[] {
  const { credential, path, body, query = {}, problems = [], needs = "feature", isStored = true } = route;
  const codes = new Set<ProblemCode>([
    "misdirected_request",
    "rate_limited",
    "internal_error",
    ...REFUSALS[credential],
    ...problems,
  ]);
  const isChecked = Object.values(query).some(({ schema }) => Object.keys(schemaOf(schema)).length > 1);
  if (needs !== "nothing") codes.add("misconfigured");
  if (path.includes("{id}")) codes.add("invalid_id");
  if (needs === "feature") {
    codes.add("feature_disabled");
    if (isStored) codes.add("storage_unavailable");
    if (isChecked || body !== undefined) codes.add("invalid_request");
    if (body !== undefined) codes.add("payload_too_large").add("unsupported_media_type");
  }
  return PROBLEM_CODES.filter((code) => codes.has(code));
}

/** The whole document, as JSON holds it. */
export function createDocument(): Document {
  const responses: Record<string, Response> = {};
  const paths: Document["paths"] = {};
  const schemas = componentSchemas();
  const { code } = (schemas.Problem?.properties ?? {}) as Record<string, JsonSchema>;
  Object.assign(code ?? {}, { $ref: "#/components/schemas/ProblemCode" });
  delete code?.type;
  for (const route of ROUTES) {
    paths[route.path] = { ...paths[route.path], [route.method]: operationOf(route, responses) };
  }
  return {
    openapi: "3.1.1",
    info: {
      title: packageJson.name,
      version: packageJson.version,
      summary: packageJson.description,
      description: DESCRIPTION,
      license: { name: "MIT", identifier: "MIT" },
    },
    servers: [{ url: "/", description: "Where this document was found." }],
    tags: Object.entries(TAGS).map(([name, description]) => ({ name, description })),
    paths,
    components: {
      securitySchemes: SECURITY_SCHEMES,
      parameters: PATH_PARAMETERS,
      headers: HEADERS,
      responses,
      schemas: { ...schemas, ProblemCode: problemCodeSchema() },
    },
  };
}

const PATH_PARAMETERS: Record<string, DocumentedParameter> = {
  id: {
    name: "id",
    in: "path",
    required: true,
    description: "The conversation.",
    schema: schemaOf(NAMED.Callback.entries.conversationId),
  },
  taskId: {
    name: "taskId",
    in: "path",
    required: true,
    description: "The task.",
    schema: { type: "string" },
  },
  file: {
    name: "file",
    in: "path",
    required: true,
    description: "Its name.",
    schema: { type: "string" },
  },
};

const DESCRIPTION = `JSON in and out. A body has at most 64 KiB and 100 levels, and is not compressed. HEAD is answered where GET is.

Errors are problem details (RFC 9457) with a stable \`code\`. A path that is not described here is answered \`not_found\`, a method that is not \`method_not_allowed\`, with \`allow\`; before that, as everywhere, ${ELSEWHERE.slice(
  2,
)
  .map((code) => `\`${code}\``)
  .join(", ")}.

Every answer has \`x-request-id\` and \`cache-control\`, and headers that are of no use to a client (${UNSPOKEN_HEADERS.map(
  (name) => `\`${name}\``,
).join(", ")}). Origins that are listed are answered by CORS.`;

function operationOf(route: Route, responses: Record<string, Response>): Operation {
  const { id, tag, summary, description, credential, body } = route;
  const parameters = parametersOf(route);
  return {
    operationId: id,
    tags: [tag],
    summary,
    ...(description === undefined ? {} : { description }),
    security: SECURITY[credential].map((name) => ({ [name]: [] })),
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(body === undefined
      ? {}
      : {
          requestBody: {
            required: body.isOptional !== true,
            content: {
              "application/json": {
                schema: schemaOf(body.schema, NAMED),
                ...(body.example === undefined ? {} : { example: body.example }),
              },
            },
          },
        }),
    responses: responsesOf(route, responses),
  };
}

function parametersOf({ path, query = {}, headers = {} }: Route): Operation["parameters"] & object {
  const ofPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
    $ref: `#/components/parameters/${name}`,
  }));
  const named = (place: "query" | "header", given: Record<string, Parameter>): DocumentedParameter[] =>
    Object.entries(given).map(([name, { schema, description, required = false }]) => ({
      name,
      in: place,
      required,
      description,
      schema: schemaOf(schema),
    }));
  return [...ofPath, ...named("query", query), ...named("header", headers)];
}

/** Problems stand under the names of their codes, once for all routes; beside an answer of the same status, with it. */
function responsesOf(route: Route, shared: Record<string, Response>): Operation["responses"] {
  const byStatus = Map.groupBy(problemsOf(route), (code) => STATUS_OF_CODE[code]);
  const found: Operation["responses"] = {};
  for (const [status, answer] of Object.entries(route.answers)) found[status] = responseOf(answer);
  for (const [status, codes] of byStatus) {
    const problem = problemResponse(codes);
    const answer = route.answers[status];
    if (answer === undefined) {
      const name = codes.map(pascalCase).join("Or");
      shared[name] = problem;
      found[status] = { $ref: `#/components/responses/${name}` };
    } else {
      const { description, headers, content } = responseOf(answer);
      found[status] = {
        description: `${description} Or: ${problem.description}`,
        headers: { ...headers, ...problem.headers },
        content: { ...content, ...problem.content },
      };
    }
  }
  return found;
}

function responseOf(answer: Answer): Response {
  const { description, schema, mediaTypes = ["application/json"], headers = [], isFile = false } = answer;
  return {
    description,
    headers: {
      ...headersNamed([...ALWAYS, ...headers]),
      ...(isFile ? { ...headersNamed(["etag"]), "cache-control": header("cache-control-of-files") } : {}),
    },
    ...(schema === undefined ? {} : { content: contentOf(mediaTypes, schema) }),
  };
}

function contentOf(mediaTypes: readonly string[], schema: Schema): Record<string, MediaType> {
  return Object.fromEntries(mediaTypes.map((mediaType) => [mediaType, { schema: contentSchema(schema) }]));
}

const contentSchema = (schema: Schema): JsonSchema => schemaOf(schema, NAMED);

function problemResponse(codes: readonly ProblemCode[]): Response {
  const headers = codes.flatMap((code) => [
    ...(PROBLEMS[code].headers ?? []),
    ...(MAYBE_HEADERS[code] ?? []),
  ]);
  return {
    description: codes.map((code) => `\`${code}\`: ${PROBLEMS[code].means}`).join(" "),
    headers: headersNamed([...ALWAYS, ...headers]),
    content: {
      "application/problem+json": {
        schema: {
          $ref: "#/components/schemas/Problem",
          properties: { code: codes.length === 1 ? { const: codes[0] } : { enum: codes } },
        },
      },
    },
  };
}

function headersNamed(names: readonly string[]): Record<string, Reference> {
  return Object.fromEntries(names.map((name) => [name, header(name)]));
}

const header = (name: string): Reference => ({ $ref: `#/components/headers/${name}` });

function problemCodeSchema(): JsonSchema {
  return {
    description: "Every code of a problem, and its status.",
    oneOf: PROBLEM_CODES.map((code) => ({
      const: code,
      title: String(STATUS_OF_CODE[code]),
      description: PROBLEMS[code].means,
    })),
  };
}

const pascalCase = (code: string) =>
  code.replaceAll(/(?:^|_)(\w)/g, (_, letter: string) => letter.toUpperCase());
