/** The network between a browser and the Worker: a TCP port whose connections a test can cut and freeze. */
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

export type Plug = {
  port: number;
  /** Where connections lead from now on. */
  leadTo(port: number): void;
  /** Ends every connection, without a goodbye. New ones come through. */
  cut(): void;
  /** From now on nothing comes through, in either direction, and nobody is told. */
  freeze(): void;
  /** What was held up goes on. */
  thaw(): void;
  close(): Promise<void>;
};

export async function startPlug(): Promise<Plug> {
  const sockets = new Set<Socket>();
  let target = 0;
  let isFrozen = false;

  function track(socket: Socket, other: () => Socket | undefined): void {
    sockets.add(socket);
    if (isFrozen) socket.pause();
    socket.on("error", () => {});
    socket.on("close", () => {
      sockets.delete(socket);
      other()?.destroy();
    });
  }

  const server = createServer((near) => {
    const far = connect({ port: target, host: "127.0.0.1" });
    near.pipe(far);
    far.pipe(near);
    track(near, () => far);
    track(far, () => near);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");

  return {
    port: (server.address() as AddressInfo).port,
    leadTo(port) {
      target = port;
    },
    cut() {
      for (const socket of sockets) socket.destroy();
    },
    freeze() {
      isFrozen = true;
      for (const socket of sockets) socket.pause();
    },
    thaw() {
      isFrozen = false;
      for (const socket of sockets) socket.resume();
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}
