/** Builds the package: the stores and the client of a server as they are, the client of a page as small as can be. */
import { defineConfig } from "tsdown";

export default defineConfig([
  {
    entry: { index: "stores/index.ts", server: "server/index.ts" },
    outDir: "dist/package",
    platform: "neutral",
    target: "es2023",
    dts: true,
    tsconfig: "tsconfig.package.json",
  },
  {
    entry: { index: "client/index.ts", react: "client/react.ts" },
    outDir: "dist/package/client",
    platform: "browser",
    target: "es2022",
    minify: true,
    sourcemap: true,
    dts: true,
    tsconfig: "tsconfig.package.json",
  },
]);
