import { createKeeper } from "../../lib/storage/keeper.ts";
import { createMemoryStorage } from "../../lib/storage/memory.ts";
import { createSqliteKeys, createSqliteStorage } from "../../lib/storage/sqlite.ts";
import type { TextStorage } from "../../lib/storage/storage.ts";
import { memorySql } from "../support/sql.ts";
import { textStorageContract } from "./storage-contract.ts";

/** Places where Redis is; the keeper keeps its copies elsewhere. */
const primaries: Record<string, (now: () => number) => TextStorage> = {
  sqlite: (now) => createSqliteStorage(createSqliteKeys(memorySql()), now),
  memory: (now) => createMemoryStorage({ now }),
};

for (const [name, primaryOf] of Object.entries(primaries)) {
  for (const keepsCopies of [true, false]) {
    textStorageContract(`keeper ${keepsCopies ? "with" : "without"} copies over ${name}`, async () => {
      let clock = Date.now();
      const now = () => clock;
      const sql = memorySql();
      return {
        storage: createKeeper({ primary: primaryOf(now), sql, now, keepsCopies }),
        advance: (ms) => {
          clock += ms;
        },
        close: async () => sql.close(),
      };
    });
  }
}
