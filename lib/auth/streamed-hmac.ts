/**
 * HMAC-SHA256 over what passes by, none of which is held: Web Crypto signs whole messages only, and a sender that has
 * not been verified yet must not decide how much memory it takes. RFC 2104, over the streaming digest of Workers.
 * https://developers.cloudflare.com/workers/runtime-apis/web-crypto/#constructors
 */
const BLOCK_BYTES = 64;

export type StreamedHmacs = {
  write(chunk: Uint8Array): Promise<void>;
  /** The codes, one a key, in their order. */
  end(): Promise<Uint8Array[]>;
};

/** Starts one code for each key. */
export async function startHmacs(keys: readonly Uint8Array[]): Promise<StreamedHmacs> {
  const hmacs = await Promise.all(
    keys.map(async (key) => {
      const block = new Uint8Array(BLOCK_BYTES);
      block.set(key.length > BLOCK_BYTES ? await sha256(key) : key);
      const digest = new crypto.DigestStream("SHA-256");
      const writer = digest.getWriter();
      await writer.write(block.map((byte) => byte ^ 0x36));
      return { outer: block.map((byte) => byte ^ 0x5c), digest, writer };
    }),
  );
  return {
    async write(chunk) {
      for (const { writer } of hmacs) await writer.write(chunk);
    },
    end: () =>
      Promise.all(
        hmacs.map(async ({ outer, digest, writer }) => {
          await writer.close();
          const inner = new Uint8Array(await digest.digest);
          const both = new Uint8Array(BLOCK_BYTES + inner.length);
          both.set(outer);
          both.set(inner, BLOCK_BYTES);
          return sha256(both);
        }),
      ),
  };
}

async function sha256(bytes: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}
