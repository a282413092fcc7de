/** Measures a store from within its own process, and tells its parent. */
/** One at a time: some clients put what is asked at once into one request, which a Worker's requests cannot share. */
const [WARM_UP, OPERATIONS, AT_ONCE] = [300, 1_000, 1];
const RECORD = {
  domain: "general",
  city: "Rome",
  lastQuery: "trains to Rome",
  basket: [{ sku: "A-17", count: 2 }],
};

/** `set` stores a record for 600 s, `get` reads it. */
export async function measure({ set, get }) {
  const each = async (count, work) => {
    const left = Array(count).keys();
    const busy = async () => {
      for (const i of left) await work(`store-${i % 100}`);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, busy));
  };
  const costOf = async (work) => {
    await each(WARM_UP, work);
    const before = process.cpuUsage();
    await each(OPERATIONS, work);
    const { user, system } = process.cpuUsage(before);
    return (user + system) / OPERATIONS;
  };
  const setµs = await costOf((key) => set(key, RECORD));
  const getµs = await costOf(async (key) => {
    if ((await get(key))?.city !== "Rome") throw new Error("the record is not there");
  });
  process.send({ setµs, getµs }, () => process.exit());
}
