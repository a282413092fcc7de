/**
 * From the schemas that validate requests and type answers to JSON Schema 2020-12. A check that has no counterpart
 * here is an error, so that nothing is validated that is not described.
 */
import { toJsonSchema, toJsonSchemaDefs } from "@valibot/to-json-schema";
import type * as v from "valibot";
import { channel } from "../functions/answers.ts";
import { isNoResultId, RESULT_ID } from "../lib/conversation-store.ts";
import { isCarriedNumber, isOfRealDay, isReadByDate, jsonObject, jsonValue } from "../lib/json.ts";
import {
  CALL_ID,
  CONVERSATION_ID,
  isAgentSessionId,
  isCallId,
  isConversationId,
  isRequestId,
  PROVIDER_ID,
  REQUEST_ID,
  RESERVED,
  TASK_ID,
} from "../lib/keys.ts";
import { CHANNEL_NAMES } from "../lib/push/channel.ts";
import { PROVIDER_NAMES } from "../lib/push/providers.ts";
import { ELEVENLABS, providerSchema } from "../lib/session-store.ts";
import type { JsonSchema } from "./shape.ts";

export type { JsonSchema } from "./shape.ts";
export type Schema = v.GenericSchema;

/** What the checks of our own say, in JSON Schema. */
const CHECKS = new Map<unknown, JsonSchema>([
  [isConversationId, { pattern: CONVERSATION_ID.source, not: { enum: [...RESERVED] } }],
  [isRequestId, { anyOf: [{ pattern: REQUEST_ID.source }, { pattern: TASK_ID.source }] }],
  [isAgentSessionId, { pattern: PROVIDER_ID.source }],
  [isCallId, { pattern: CALL_ID.source }],
  [isNoResultId, { not: { pattern: `^${RESULT_ID}` } }],
  // The format says so already.
  [isOfRealDay, {}],
  [isReadByDate, {}],
  [isCarriedNumber, { type: "number" }],
  [jsonObject.check, { type: "object", additionalProperties: true }],
  [jsonValue.check, {}],
]);

/** What may stand where the schema itself takes any text. */
const WORDS = new Map<unknown, readonly string[]>([
  [channel, [...CHANNEL_NAMES, ...PROVIDER_NAMES]],
  [providerSchema, [ELEVENLABS, ...PROVIDER_NAMES]],
]);

type Conversion = NonNullable<Parameters<typeof toJsonSchema>[1]>;

const CONVERSION: Conversion = {
  target: "draft-2020-12",
  // What comes over the wire, before it is transformed.
  typeMode: "input",
  overrideAction({ valibotAction: action, jsonSchema }) {
    if (action.type !== "check") return undefined;
    const said = CHECKS.get((action as v.CheckAction<unknown, undefined>).requirement);
    return said && { ...jsonSchema, ...said };
  },
  overrideSchema({ valibotSchema: schema, jsonSchema, errors }) {
    const words = WORDS.get(schema);
    if (words !== undefined) return { ...jsonSchema, enum: [...words] };
    if (schema.type === "custom") return CHECKS.get((schema as v.CustomSchema<unknown, undefined>).check);
    if (errors !== undefined) return undefined;
    if (schema.type === "loose_object") return withoutEmpty({ ...jsonSchema, additionalProperties: true });
    return withoutEmpty({ ...jsonSchema });
  },
  overrideRef: ({ referenceId }) => `#/components/schemas/${referenceId}`,
};

function withoutEmpty({ required, ...rest }: JsonSchema): JsonSchema {
  return Array.isArray(required) && required.length === 0
    ? rest
    : { ...rest, ...(required ? { required } : {}) };
}

/** Schemas by the names that they have in the document, with references between each other. Throws for what has no counterpart. */
export function namedSchemas(named: Record<string, Schema>): Record<string, JsonSchema> {
  const converted = toJsonSchemaDefs(named, CONVERSION) as Record<string, JsonSchema>;
  for (const [name, schema] of Object.entries(named)) addBounds(schema, converted[name] ?? {});
  return converted;
}

/** A schema that refers to those that have names. Throws for what has no counterpart. */
export function schemaOf(schema: Schema, named: Record<string, Schema> = {}): JsonSchema {
  const { $schema, $defs, ...converted } = toJsonSchema(schema, { ...CONVERSION, definitions: named });
  addBounds(schema, converted);
  return converted;
}

type Action = { type: string; requirement?: unknown; pipe?: readonly Action[] };
type Part = Schema & {
  pipe?: readonly Action[];
  entries?: Record<string, Schema>;
  wrapped?: Schema;
  item?: Schema;
  options?: readonly unknown[];
};
type Composite = {
  properties?: Record<string, JsonSchema>;
  items?: JsonSchema;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
};

/**
 * The converter stops where a value is transformed. What is checked behind that, the bounds of a number, is added
 * here; a parameter that is read as such a number is described as one, though it arrives as text.
 */
function addBounds(schema: Schema, converted: JsonSchema): void {
  if ("$ref" in converted) return;
  const { entries = {}, wrapped, item, options = [] }: Part = schema;
  const pipe = actionsOf(schema as Part);
  const transformed = pipe.findIndex(({ type }) => type === "transform");
  for (const { type, requirement } of transformed === -1 ? [] : pipe.slice(transformed + 1)) {
    if (type !== "min_value" && type !== "max_value") {
      throw new TypeError(`"${type}" behind a transformation has no counterpart`);
    }
    converted[type === "min_value" ? "minimum" : "maximum"] = requirement;
  }
  if (converted.type === "string" && "maximum" in converted) {
    converted.type = "integer";
    converted.minimum ??= 0;
    delete converted.pattern;
    if ("default" in converted) converted.default = Number(converted.default);
  }
  const { properties = {}, items = {}, anyOf = [], oneOf = anyOf } = converted as Composite;
  for (const [name, entry] of Object.entries(entries)) addBounds(entry, properties[name] ?? {});
  const [first = {}] = anyOf;
  if (wrapped !== undefined) addBounds(wrapped, schema.type === "nullable" ? first : converted);
  if (item !== undefined) addBounds(item, items);
  if (schema.type === "union" || schema.type === "variant") {
    for (const [i, option] of options.entries()) addBounds(option as Schema, oneOf[i] ?? {});
  }
}

/** The steps of a pipe, and of the pipes in it. */
function actionsOf({ pipe = [] }: { pipe?: readonly Action[] }): Action[] {
  return pipe.flatMap((action) => (action.pipe === undefined ? [action] : actionsOf(action)));
}
