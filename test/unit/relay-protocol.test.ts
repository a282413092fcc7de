/**
 * The frames stand apart from the schemas, because the browser client imports them and valibot must not follow.
 * Here the compiler holds the two to each other.
 */
import { expectTypeOf, test } from "vitest";
import type { PageSession, PushFrame, RelayDelivery, RelayResult } from "../../lib/live/relay-protocol.ts";
import type { Delivery, Result } from "../../lib/result.ts";
import type { Registration } from "../../lib/session-store.ts";

test("the frames say what the schemas say", () => {
  expectTypeOf<RelayDelivery>().toEqualTypeOf<Delivery>();
  expectTypeOf<PushFrame["delivery"]>().toEqualTypeOf<Delivery>();
  expectTypeOf<RelayResult["requestId"]>().toEqualTypeOf<Result["requestId"]>();
  expectTypeOf<RelayResult["success"]>().toEqualTypeOf<Result["success"]>();
  expectTypeOf<PageSession["transport"]>().toEqualTypeOf<Registration["transport"]>();
  expectTypeOf<PageSession["sessionUrl"]>().toEqualTypeOf<Registration["sessionUrl"]>();
  expectTypeOf<PageSession["agentSessionId"]>().toEqualTypeOf<Registration["agentSessionId"]>();
  expectTypeOf<PageSession["expiresAt"]>().toEqualTypeOf<Registration["expiresAt"]>();
});
