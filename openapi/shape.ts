/** The form of the document, as far as ours uses OpenAPI, for whoever makes it and whoever checks answers by it. */

/** A JSON Schema, of whatever draft. */
export type JsonSchema = { [keyword: string]: unknown };

export type Reference = { $ref: string };
export type Header = { description: string; required?: boolean; schema: JsonSchema };
export type MediaType = { schema: JsonSchema; example?: unknown };
export type Response = {
  description: string;
  headers: Record<string, Reference>;
  content?: Record<string, MediaType>;
};
export type DocumentedParameter = {
  name: string;
  in: "path" | "query" | "header";
  required: boolean;
  description: string;
  schema: JsonSchema;
};
export type Operation = {
  operationId: string;
  tags: string[];
  summary: string;
  description?: string;
  security: Record<string, never[]>[];
  parameters?: (DocumentedParameter | Reference)[];
  requestBody?: { required: boolean; content: Record<string, MediaType> };
  responses: Record<string, Response | Reference>;
};
export type Document = {
  openapi: string;
  info: { title: string; version: string; summary: string; description: string; license: object };
  servers: object[];
  tags: { name: string; description: string }[];
  paths: Record<string, Record<string, Operation>>;
  components: {
    securitySchemes: Record<string, { type: string; description: string; [field: string]: unknown }>;
    parameters: Record<string, DocumentedParameter>;
    headers: Record<string, Header>;
    responses: Record<string, Response>;
    schemas: Record<string, JsonSchema>;
  };
};

/** Headers that any answer may have, and that no client needs to look at. */
export const UNSPOKEN_HEADERS: readonly string[] = [
  "cross-origin-resource-policy",
  "referrer-policy",
  "strict-transport-security",
  "x-content-type-options",
  "x-frame-options",
  "access-control-allow-origin",
  "access-control-expose-headers",
  "vary",
];
