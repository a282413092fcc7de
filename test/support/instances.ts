/**
 * Two instances of the built Worker over one Redis and the same objects, each of the three with a gateway of its
 * own that can misbehave: what only happens between instances shows here.
 */
import { type FaultyGateway, startFaultyGateway } from "./faulty-gateway.ts";
import { bindingsOver, startWorker, type TestWorker, type TestWorkerOptions } from "./worker.ts";

export type Instance = { fetch: TestWorker["fetch"]; gateway: FaultyGateway };

export type Instances = {
  a: Instance;
  b: Instance;
  /** The way of the objects to Redis. */
  objects: FaultyGateway;
  worker: TestWorker;
  /** Everything reaches Redis again. */
  heal(): void;
  close(): Promise<void>;
};

export async function startInstances(
  redisUrl: string,
  bindings: Record<string, string> = {},
  options: TestWorkerOptions = {},
): Promise<Instances> {
  const gateways = await Promise.all(
    Array.from({ length: 3 }, () => startFaultyGateway({ redisUrl, token: "gateway-token" })),
  );
  const [objects, ofA, ofB] = gateways as [FaultyGateway, FaultyGateway, FaultyGateway];
  const worker = await startWorker(
    { ...bindingsOver(objects), ...bindings },
    { ...options, others: [bindingsOver(ofA), bindingsOver(ofB)] },
  );
  const instance = (number: number, gateway: FaultyGateway): Instance => ({
    fetch: (path, init) => worker.fetchFrom(number, path, init),
    gateway,
  });
  return {
    a: instance(1, ofA),
    b: instance(2, ofB),
    objects,
    worker,
    heal() {
      for (const gateway of gateways) gateway.heal();
    },
    async close() {
      await worker.close();
      await Promise.all(gateways.map((gateway) => gateway.close()));
    },
  };
}
