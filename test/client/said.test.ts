import { expect, test } from "vitest";
import { createSaid } from "../../client/said.ts";
import { testPage } from "./support/page.ts";

const PLACE = "agent-session:c1";

test("the last four agent conversations are remembered, in memory and in the storage", () => {
  const page = testPage();
  const saidIn = createSaid(page, "c1");
  for (const key of ["a", "b", "c", "d", "e"]) saidIn(key).add([`of ${key}`]);
  expect(JSON.parse(page.stored.get(PLACE) ?? "").map(([key]: [string]) => key)).toEqual([
    "b",
    "c",
    "d",
    "e",
  ]);
  page.stored.clear();
  expect([saidIn("b").all(), saidIn("a").all()]).toEqual([["of b"], []]);
});

test("the last four hundred results of one are remembered, and it is said that there were more", () => {
  const page = testPage();
  const said = createSaid(page, "c1")("a");
  for (let i = 0; i < 399; i++) said.add([`r${i}`]);
  expect(said.isWhole()).toBe(true);
  said.add(["r399", "r400"]);
  expect([said.isWhole(), said.has("r0"), said.has("r1"), said.all().length]).toEqual([
    false,
    false,
    true,
    400,
  ]);
  expect(createSaid(page, "c1")("a").isWhole()).toBe(false);
});

test("two clients on a page keep what the other one stored", () => {
  const page = testPage();
  const [one, other] = [createSaid(page, "c1")("a"), createSaid(page, "c1")("b")];
  one.add(["1"]);
  other.add(["2"]);
  one.add(["3"]);
  const anew = createSaid(page, "c1");
  expect([anew("a").all(), anew("b").all()]).toEqual([["1", "3"], ["2"]]);
});

test("an agent conversation without an id is remembered by its object, and not stored", () => {
  const page = testPage();
  const saidIn = createSaid(page, "c1");
  const conversation = {};
  saidIn(conversation).add(["r"]);
  expect([saidIn(conversation).all(), saidIn({}).all(), page.stored.size]).toEqual([["r"], [], 0]);
});

test.for(["{", "7", "null", '[["a"]]', '[["a",[1]],["a",["r"]]]'])(
  "what somebody else stored, %s, is no obstacle",
  (text) => {
    const page = testPage(new Map([[PLACE, text]]));
    const said = createSaid(page, "c1")("a");
    said.add(["s"]);
    expect(said.has("s")).toBe(true);
    expect(JSON.parse(page.stored.get(PLACE) ?? "")).toEqual([["a", said.all()]]);
  },
);

test("a storage that is full leaves the memory", () => {
  const page = testPage();
  page.storage = () => ({
    getItem: () => null,
    setItem: () => {
      throw new DOMException("full", "QuotaExceededError");
    },
  });
  const saidIn = createSaid(page, "c1");
  saidIn("a").add(["r"]);
  expect(saidIn("a").all()).toEqual(["r"]);
});
