/**
 * The document as one HTML page that loads nothing and runs nothing: no script, no font, no image, and a style of its
 * own that the Content-Security-Policy names by its digest.
 */
import { createHash } from "node:crypto";
import { ALWAYS } from "./document.ts";
import type { JsonSchema } from "./schemas.ts";
import type { Document, DocumentedParameter, MediaType, Operation, Response } from "./shape.ts";

const STYLE = `
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1.5rem; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
h4 { margin: 1rem 0 .25rem; }
p { margin: .4rem 0; }
a { color: LinkText; text-decoration: none; }
a:hover, a:focus { text-decoration: underline; }
nav ul { padding: 0; list-style: none; columns: 2 24rem; }
code, pre, summary b { font-family: ui-monospace, monospace; font-size: .9em; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid var(--line); border-radius: .4rem; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .5rem 0; padding: 0 .8rem; }
details div { scroll-margin-top: 4rem; }
details[open] { padding-bottom: .8rem; }
summary { cursor: pointer; margin: 0 -.8rem; padding: .5rem .8rem; }
summary span { opacity: .75; }
table { border-collapse: collapse; width: 100%; font-size: .93em; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; border-top: 1px solid var(--line); }
th { font-weight: 600; }
td:first-child { white-space: nowrap; }
@media (max-width: 40rem) { td:first-child { white-space: normal; } body { padding: .8rem; } }
`;

/** What the page may do: apply its style. */
export const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  `style-src 'sha256-${createHash("sha256").update(STYLE).digest("base64")}'`,
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** The page. Everything that is not markup of ours is escaped. */
export function renderPage(document: Document): string {
  const { info, tags, paths, components } = document;
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );
  const ofTag = (name: string) => operations.filter(({ operation }) => operation.tags.includes(name));
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(info.title)}: API</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${escaped(info.title)}</h1>
<p>${prose(info.summary)}. Version ${escaped(info.version)}. The same for machines: <a href="/openapi.json">openapi.json</a>.</p>
${info.description.split("\n\n").map(paragraph).join("\n")}
<nav>
${tags
  .map(
    ({ name }) => `<h3>${escaped(name)}</h3>
<ul>${ofTag(name)
      .map(
        ({ path, method, operation }) =>
          `<li><a href="#${escaped(operation.operationId)}"><code>${method.toUpperCase()} ${escaped(path)}</code></a></li>`,
      )
      .join("")}</ul>`,
  )
  .join("\n")}
</nav>
<h2 id="credentials">Credentials</h2>
${table(
  ["credential", "where", ""],
  Object.entries(components.securitySchemes).map(([name, { type, name: header, description }]) => [
    anchor("credential", name),
    type === "http" ? "<code>authorization: Bearer …</code>" : code(String(header)),
    prose(description),
  ]),
)}
${tags
  .map(
    ({ name, description }) => `<h2>${escaped(name)}</h2>
${paragraph(description)}
${ofTag(name)
  .map(({ path, method, operation }) => renderOperation(document, path, method, operation))
  .join("\n")}`,
  )
  .join("\n")}
<h2 id="schemas">Schemas</h2>
${Object.entries(components.schemas)
  .map(([name, schema]) => folded(`schema-${name}`, `<b>${escaped(name)}</b>`, renderSchema(schema)))
  .join("\n")}
<h2 id="headers">Headers</h2>
${table(
  ["header", ""],
  Object.entries(components.headers).map(([name, { description }]) => [
    anchor("header", name),
    prose(description),
  ]),
)}
</body>
</html>
`;
}

function renderOperation(document: Document, path: string, method: string, operation: Operation): string {
  const { operationId, summary, description, security, parameters = [], requestBody, responses } = operation;
  const found = parameters.map((parameter) =>
    "$ref" in parameter ? (document.components.parameters[nameOf(parameter.$ref)] ?? null) : parameter,
  );
  const credentials = security
    .flatMap((scheme) => Object.keys(scheme))
    .map((name) => link("credential", name));
  const title = `<b>${method.toUpperCase()} ${escaped(path)}</b> <span>${escaped(summary)}</span>`;
  return folded(
    operationId,
    title,
    `${description === undefined ? "" : paragraph(description)}
<p>Credential: ${credentials.length === 0 ? "none" : credentials.join(", or ")}</p>
${found.length === 0 ? "" : `<h4>Parameters</h4>\n${renderParameters(found)}`}
${requestBody === undefined ? "" : `<h4>Request</h4>\n${renderContent(requestBody.content)}`}
<h4>Answers</h4>
${table(
  ["status", "", "body", "headers"],
  Object.entries(responses).map(([status, response]) => renderResponse(document, status, response)),
)}`,
  );
}

/** What a code means stands in one place, with all codes. */
function renderResponse(
  document: Document,
  status: string,
  response: Operation["responses"][string],
): string[] {
  const { description, headers, content = {} } = resolved(document, response);
  const { [PROBLEM]: problem, ...others } = content;
  const own = Object.values(others).map(({ schema }) => typeOf(schema));
  return [
    code(status),
    "$ref" in response ? "" : prose(description),
    [...own, ...(problem === undefined ? [] : codesOf(problem.schema))].join("<br>"),
    Object.keys(headers)
      .filter((name) => !ALWAYS.includes(name))
      .map((name) => link("header", name))
      .join(", "),
  ];
}

const PROBLEM = "application/problem+json";

function codesOf(schema: JsonSchema): string[] {
  const { code: codes = {} } = (schema as Shape).properties ?? {};
  const { enum: several = [codes.const] } = codes as Shape;
  return several.map((name) => `<a href="#schema-ProblemCode">${escaped(String(name))}</a>`);
}

function resolved(document: Document, response: Response | { $ref: string }): Response {
  if (!("$ref" in response)) return response;
  const found = document.components.responses[nameOf(response.$ref)];
  if (found === undefined) throw new TypeError(`there is no ${response.$ref}`);
  return found;
}

function renderParameters(parameters: readonly (DocumentedParameter | null)[]): string {
  return table(
    ["name", "in", "type", ""],
    parameters.flatMap((parameter) =>
      parameter === null
        ? []
        : [
            [
              code(parameter.name),
              parameter.required ? `${parameter.in}, required` : parameter.in,
              typeOf(parameter.schema),
              prose(parameter.description),
            ],
          ],
    ),
  );
}

function renderContent(content: Record<string, MediaType>): string {
  return Object.entries(content)
    .map(
      ([mediaType, { schema, example }]) => `<p>${code(mediaType)} ${typeOf(schema)}</p>
${example === undefined ? "" : `<pre>${escaped(JSON.stringify(example, null, 2))}</pre>`}`,
    )
    .join("\n");
}

/** A schema with a name: what it is, and its fields. */
function renderSchema(schema: JsonSchema): string {
  const { description, properties = {}, required = [], oneOf = [] } = schema as Shape;
  const fields = Object.entries(properties).map(([name, field]) => [
    code(name),
    required.includes(name) ? "required" : "",
    typeOf(field),
    prose(String(field.description ?? "")),
  ]);
  const alternatives = oneOf.map(({ const: value, title, description }) => [
    code(String(value)),
    escaped(String(title ?? "")),
    prose(String(description ?? "")),
  ]);
  return `${description === undefined ? "" : paragraph(description)}
${fields.length === 0 ? "" : table(["field", "", "type", ""], fields)}
${alternatives.length === 0 ? "" : table(["value", "status", ""], alternatives)}`;
}

type Shape = {
  $ref?: string;
  description?: string;
  type?: string;
  properties?: Record<string, JsonSchema>;
  required?: string[];
  items?: JsonSchema;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
  enum?: unknown[];
  const?: unknown;
  format?: string;
  default?: unknown;
};

/** A schema in a few words, with links to those that have names. */
function typeOf(schema: JsonSchema): string {
  const {
    $ref,
    type,
    properties,
    required = [],
    items,
    anyOf = [],
    oneOf = [],
    enum: values,
  } = schema as Shape;
  const { const: value, format, default: fallback } = schema as Shape;
  const alternatives = [...anyOf, ...oneOf].filter(
    (part) => "type" in part || "$ref" in part || "const" in part,
  );
  const bounds = ["minimum", "maximum", "minLength", "maxLength", "maxItems", "pattern"]
    .filter((keyword) => keyword in schema)
    .map((keyword) => `${keyword} ${code(String(schema[keyword]))}`);
  const base =
    $ref !== undefined
      ? link("schema", nameOf($ref))
      : value !== undefined
        ? code(JSON.stringify(value))
        : values !== undefined
          ? values.map((one) => code(JSON.stringify(one))).join(" or ")
          : alternatives.length > 0
            ? alternatives.map(typeOf).join(" or ")
            : items !== undefined
              ? `list of ${typeOf(items)}`
              : properties !== undefined
                ? `{ ${Object.entries(properties)
                    .map(
                      ([name, field]) =>
                        `${code(required.includes(name) ? name : `${name}?`)}: ${typeOf(field)}`,
                    )
                    .join(", ")} }`
                : escaped(format ?? type ?? "anything");
  const isWhole = $ref === undefined && value === undefined;
  const said = [
    ...(isWhole ? bounds : []),
    ...(fallback === undefined ? [] : [`default ${code(JSON.stringify(fallback))}`]),
  ];
  return said.length === 0 ? base : `${base} (${said.join(", ")})`;
}

/** A link that leads into what is folded unfolds it, one that leads to it does not. */
function folded(id: string, title: string, content: string): string {
  return `<details><summary>${title}</summary><div id="${escaped(id)}">
${content}
</div></details>`;
}

const nameOf = (reference: string) => reference.slice(reference.lastIndexOf("/") + 1);
const link = (kind: string, name: string) => `<a href="#${kind}-${escaped(name)}">${code(name)}</a>`;
const anchor = (kind: string, name: string) => `<span id="${kind}-${escaped(name)}">${code(name)}</span>`;
const code = (text: string) => `<code>${escaped(text)}</code>`;
const paragraph = (text: string) => `<p>${prose(text)}</p>`;
/** Text with what is in backquotes as code. */
const prose = (text: string) => escaped(text).replaceAll(/`([^`]+)`/g, "<code>$1</code>");

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (tag: "th" | "td", row: readonly string[]) =>
    `<tr>${row.map((cell) => `<${tag}>${cell}</${tag}>`).join("")}</tr>`;
  return `<table>\n<thead>${cells("th", head)}</thead>\n<tbody>\n${rows.map((row) => cells("td", row)).join("\n")}\n</tbody>\n</table>`;
}

function escaped(text: string): string {
  return text.replaceAll(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
