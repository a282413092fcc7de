/** Holds what the Worker answers against the document that it serves: every answer that any test gets. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import { ASSETS } from "../../console/assets.ts";
import type { ProblemCode } from "../../functions/problem-codes.ts";
import { ELSEWHERE, PROBLEMS } from "../../openapi/problems.ts";
import type { Response as Described, Document, Header, Operation } from "../../openapi/shape.ts";
import { UNSPOKEN_HEADERS } from "../../openapi/shape.ts";

export type Exchange = {
  method: string;
  /** Of the URL, without its query. */
  path: string;
  /** What was sent, if it was JSON. */
  sent?: unknown;
  status: number;
  headers: Headers;
  /** The body; null where there can be none. */
  text: string | null;
};

const document = JSON.parse(readFileSync(join(ASSETS, "openapi.json"), "utf8")) as Document;

/** Those of the connection, not of the answer. */
const TRANSPORT_HEADERS = [
  "connection",
  "content-encoding",
  "content-length",
  "content-type",
  "date",
  "keep-alive",
  "sec-websocket-accept",
  "sec-websocket-extensions",
  "transfer-encoding",
  "upgrade",
];

const DATE_TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)$/;

/** `isClosed`: an object has no other fields than those that are described, unless it says that it may. */
function validatorOf(isClosed: boolean): (pointer: string[], value: unknown) => string | null {
  const ajv = new Ajv2020({ strict: false, allErrors: true, validateFormats: true });
  ajv.addFormat("date-time", DATE_TIME);
  ajv.addSchema(isClosed ? closed(document) : document, "openapi");
  const known = new Map<string, ValidateFunction>();
  return (pointer, value) => {
    const path = pointer.map((part) => encodeURIComponent(part.replaceAll("~", "~0").replaceAll("/", "~1")));
    const $ref = `openapi#/${path.join("/")}`;
    const validate = known.get($ref) ?? ajv.compile({ $ref });
    known.set($ref, validate);
    return validate(value) ? null : ajv.errorsText(validate.errors, { dataVar: "body" });
  };
}

function closed<T>(part: T): T {
  if (typeof part !== "object" || part === null) return part;
  if (Array.isArray(part)) return part.map(closed) as T;
  const copy = Object.fromEntries(Object.entries(part).map(([name, value]) => [name, closed(value)]));
  const isShape = copy.type === "object" && "properties" in copy && !("additionalProperties" in copy);
  return (isShape ? { ...copy, additionalProperties: false } : copy) as T;
}

const answerErrors = validatorOf(true);
const requestErrors = validatorOf(false);

const templates = Object.entries(document.paths)
  .map(([template, operations]) => ({
    template,
    operations,
    pattern: new RegExp(`^${template.replaceAll(".", "\\.").replaceAll(/\{\w+\}/g, "[^/]+")}$`),
  }))
  .sort((a, b) => a.template.split("{").length - b.template.split("{").length);

type Found = { template: string; method: string; operation: Operation };

function operationOf(method: string, path: string): Found | null {
  const name = method === "HEAD" ? "get" : method.toLowerCase();
  for (const { template, operations, pattern } of templates) {
    const operation = operations[name];
    if (operation !== undefined && pattern.test(path)) return { template, method: name, operation };
  }
  return null;
}

/** Throws where an answer is not as the document says. */
export function requireContract(exchange: Exchange): void {
  const { method, path, status } = exchange;
  const found = operationOf(method, path);
  const faults = found === null ? faultsElsewhere(exchange) : faultsOf(exchange, found);
  if (faults.length === 0) return;
  const body = exchange.text === null ? "" : `\n${exchange.text.slice(0, 500)}`;
  throw new Error(
    `${method} ${path}: ${status} is not as openapi.json says:\n- ${faults.join("\n- ")}${body}`,
  );
}

/** Where nothing is described: a problem that says so, or one that comes before that; and preflights, which are of CORS. */
function faultsElsewhere({ method, status, headers, text }: Exchange): string[] {
  if (method === "OPTIONS" && status === 204) return [];
  const code = codeOf(text);
  const isKnown = method === "HEAD" || ELSEWHERE.some((known) => known === code);
  return [
    ...(isKnown ? [] : ["neither path and method nor what it is answered are described"]),
    ...(method === "HEAD" ? [] : bodyFaults(["components", "schemas", "Problem"], text)),
    ...missingHeaders(code, headers),
  ];
}

function faultsOf({ method, sent, status, headers, text }: Exchange, found: Found): string[] {
  const { template, method: name, operation } = found;
  const pointer = ["paths", template, name];
  const given = operation.responses[status];
  if (given === undefined) return ["the status is not described"];
  const { response, at } =
    "$ref" in given ? referred(given.$ref) : { response: given, at: [...pointer, "responses", `${status}`] };
  const faults = headerFaults(response, headers);
  if (method !== "HEAD") {
    const mediaType = headers.get("content-type")?.split(";")[0] ?? null;
    const { content } = response;
    if (content === undefined ? text : mediaType === null || !(mediaType in content)) {
      return [...faults, `the content type ${mediaType} is not described`];
    }
    if (mediaType !== null) {
      const schema = [...at, "content", mediaType, "schema"];
      faults.push(...(mediaType.endsWith("json") ? bodyFaults(schema, text) : []));
      if (mediaType === "application/problem+json") faults.push(...missingHeaders(codeOf(text), headers));
    }
  }
  if (sent !== undefined && status < 300 && operation.requestBody !== undefined) {
    const errors = requestErrors([...pointer, "requestBody", "content", "application/json", "schema"], sent);
    if (errors !== null) faults.push(`the request was taken, but ${errors}`);
  }
  return faults;
}

function referred(reference: string): { response: Described; at: string[] } {
  const at = reference.slice(2).split("/");
  const response = document.components.responses[at.at(-1) ?? ""];
  if (response === undefined) throw new Error(`there is no ${reference}`);
  return { response, at };
}

function headerFaults(response: Described, headers: Headers): string[] {
  const described = Object.entries(response.headers).map(
    ([name, { $ref }]) => [name, document.components.headers[$ref.split("/").at(-1) ?? ""]] as const,
  );
  const isKnown = (name: string) =>
    described.some(([known]) => known === name) || [...UNSPOKEN_HEADERS, ...TRANSPORT_HEADERS].includes(name);
  const faults = [...headers.keys()]
    .filter((name) => !isKnown(name))
    .map((name) => `nothing is said of ${name}`);
  for (const [name, header] of described) {
    const fault = header === undefined ? "is described nowhere" : faultOfHeader(header, headers.get(name));
    if (fault !== null) faults.push(`the header ${name} ${fault}`);
  }
  return faults;
}

function faultOfHeader({ required = false, schema }: Header, value: string | null): string | null {
  if (!value) return required ? "is missing" : null;
  if ("const" in schema && schema.const !== value) return `is ${value}`;
  return schema.type === "integer" && !/^\d+$/.test(value) ? `is ${value}` : null;
}

/** The headers that an answer with this code always has. */
function missingHeaders(code: string | undefined, headers: Headers): string[] {
  const needed = code === undefined ? [] : (PROBLEMS[code as ProblemCode]?.headers ?? []);
  return needed.filter((name) => !headers.has(name)).map((name) => `${code} without the header ${name}`);
}

function bodyFaults(schema: string[], text: string | null): string[] {
  try {
    const errors = answerErrors(schema, JSON.parse(text ?? ""));
    return errors === null ? [] : [errors];
  } catch (error) {
    return error instanceof SyntaxError ? ["the body is not JSON"] : [String(error)];
  }
}

function codeOf(text: string | null): string | undefined {
  try {
    return (JSON.parse(text ?? "") as { code?: string }).code;
  } catch {
    return undefined;
  }
}

/** The answer itself, once it is as the document says. */
export async function asDescribed(url: URL, init: RequestInit, response: Response): Promise<Response> {
  const { method = "GET", body } = init;
  const text = response.body === null ? null : await response.clone().text();
  const isJson = new Headers(init.headers).get("content-type") === "application/json";
  // A tool of the agent is refused with 200.
  const isTaken = response.ok && codeOf(text) === undefined;
  requireContract({
    method,
    path: url.pathname,
    ...(isJson && isTaken && typeof body === "string" ? { sent: JSON.parse(body) } : {}),
    status: response.status,
    headers: response.headers,
    text,
  });
  return response;
}
