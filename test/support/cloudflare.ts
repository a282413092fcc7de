/** An API that stands for Cloudflare's, as far as wrangler asks it to deploy; it writes down what it is told. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

export type Upload = {
  bindings: { name: string; type: string }[];
  keep_bindings: string[];
  observability: unknown;
  assets?: { config: Record<string, unknown> };
};

/** `isNew`: no Worker is there yet. */
export async function startCloudflare({ isNew = true } = {}) {
  const uploads: Upload[] = [];
  const assets: string[] = [];
  const order: ("draft" | "secrets" | "deployment")[] = [];
  let secrets: Record<string, string> = {};
  let exists = !isNew;
  let migrationTag = isNew ? undefined : "v2";
  const onWorkersDev = { enabled: true, previews_enabled: false };

  /** Null for what is not there. */
  function resultOf(url: string, body: string): unknown {
    const [, metadata] = /name="metadata"[^\r]*\r\n(?:[^\r]+\r\n)*\r\n([^\r]*)/.exec(body) ?? [];
    if (metadata !== undefined) {
      // wrangler makes an empty Worker, to have something that secrets can belong to.
      const isDraft = body.includes("export default { fetch() {} }");
      order.push(isDraft ? "draft" : "deployment");
      uploads.push(JSON.parse(metadata) as Upload);
      exists = true;
      if (!isDraft) migrationTag = "v2";
      return { id: "x", deployment_id: "d", startup_time_ms: 1, resources: { script: { etag: "e" } } };
    }
    if (url.endsWith("/assets-upload-session")) {
      const { manifest } = JSON.parse(body) as { manifest: Record<string, { hash: string }> };
      assets.push(...Object.keys(manifest));
      return { jwt: "t", buckets: [Object.values(manifest).map(({ hash }) => hash)] };
    }
    if (url.endsWith("/assets/upload")) return { jwt: "t" };
    if (url.includes("/services/")) {
      const script = { tag: "t", tags: [], migration_tag: migrationTag };
      return exists ? { id: "x", default_environment: { environment: "production", script } } : null;
    }
    if (url.endsWith("/secrets-bulk")) {
      if (!exists) return null;
      const given = (JSON.parse(body) as { secrets: Record<string, { text: string }> }).secrets;
      secrets = Object.fromEntries(Object.entries(given).map(([name, { text }]) => [name, text]));
      order.push("secrets");
      return {};
    }
    if (url.endsWith("/secrets")) return exists ? Object.keys(secrets).map((name) => ({ name })) : null;
    if (url.endsWith("/deployments")) return { deployments: [] };
    if (url.endsWith("/workers/subdomain")) return { subdomain: "someone" };
    if (url.endsWith("/subdomain")) return onWorkersDev;
    if (url.includes("/workers/workers/")) return { subdomain: onWorkersDev };
    return url.endsWith("/memberships") ? [] : {};
  }

  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const { pathname } = new URL(request.url ?? "", "http://localhost");
    const result = resultOf(pathname, Buffer.concat(chunks).toString());
    const isThere = result !== null;
    const errors = isThere ? [] : [{ code: 10007, message: "This Worker does not exist on your account." }];
    response.statusCode = isThere ? 200 : 404;
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ success: isThere, errors, messages: [], result }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;

  return {
    uploads,
    /** The paths of the files that are served. */
    assets,
    order,
    secrets: () => secrets,
    /** What brings wrangler here. */
    environment: {
      CI: "true",
      CLOUDFLARE_API_BASE_URL: `http://127.0.0.1:${port}`,
      CLOUDFLARE_API_TOKEN: "t",
      CLOUDFLARE_ACCOUNT_ID: "0".repeat(32),
      WRANGLER_SEND_METRICS: "false",
      WRANGLER_HIDE_BANNER: "true",
    },
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}
