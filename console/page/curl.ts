/** A request as a line for a shell. */

/** A word that the shell takes as it is. */
export function quotedForShell(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** `authorization` stands in double quotes, because it names the variable that holds the secret. */
export function curlLine({ url, body, variable }: { url: string; body: unknown; variable: string }): string {
  return [
    `curl -X POST ${quotedForShell(url)}`,
    `-H 'content-type: application/json'`,
    `-H "authorization: Bearer $${variable}"`,
    `-d ${quotedForShell(JSON.stringify(body))}`,
  ].join(" \\\n  ");
}
