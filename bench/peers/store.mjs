/** The libraries that people use for the plain store operations; STORE names one. */
import { measure } from "./measure.mjs";

const { STORE, REDIS_URL, REST_URL, REST_TOKEN } = process.env;

if (STORE === "unstorage") {
  const { createStorage } = await import("unstorage");
  const { default: driver } = await import("unstorage/drivers/upstash");
  const storage = createStorage({ driver: driver({ url: REST_URL, token: REST_TOKEN }) });
  await measure({
    set: (key, record) => storage.setItem(key, record, { ttl: 600 }),
    get: (key) => storage.getItem(key),
  });
} else {
  const { RedisStore } = await import("connect-redis");
  const { createClient } = await import("redis");
  const client = await createClient({ url: REDIS_URL }).connect();
  const store = new RedisStore({ client, ttl: 600 });
  await measure({
    set: (key, record) => store.set(key, { cookie: {}, ...record }),
    get: (key) => store.get(key),
  });
}
