/** What the list of providers says: its names, its accounts. Variables, channels, `/config` and openapi.json follow from it. */
import type { Provider } from "./provider.ts";
import * as list from "./provider-list.ts";

export const PROVIDERS = { ...list } satisfies Record<string, Provider>;

export type ProviderName = keyof typeof PROVIDERS;
/** What the variables of their accounts begin with. */
export type AccountName = (typeof PROVIDERS)[ProviderName]["account"];

export const PROVIDER_NAMES = Object.keys(PROVIDERS) as ProviderName[];
