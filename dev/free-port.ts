/** A port for a server that is to be started later, or stopped and started again on the same one. */
import { once } from "node:events";
import { createServer } from "node:net";

const HOST = "127.0.0.1";
/**
 * Below what systems give to outgoing connections and to whoever asks for any port (32768 and up on Linux, 49152 and up
 * on macOS and Windows): a port from there may be anybody's by the time it is used.
 */
const LOWEST = 10_000;
const HIGHEST = 32_000;

/**
 * Tells a port of the loopback that is free, at random, so that programs that ask at the same time are told different
 * ones.
 *
 * @param inARow How many ports have to be free, from the one that is told upwards.
 */
export async function freePort(inARow = 1): Promise<number> {
  for (;;) {
    const port = LOWEST + Math.floor(Math.random() * (HIGHEST - LOWEST));
    const ports = Array.from({ length: inARow }, (_, index) => port + index);
    const free = await Promise.all(ports.map(isFree));
    if (free.every(Boolean)) return port;
  }
}

async function isFree(port: number): Promise<boolean> {
  const probe = createServer().listen(port, HOST);
  try {
    await once(probe, "listening");
  } catch {
    return false;
  }
  probe.close();
  await once(probe, "close");
  return true;
}
