import assert from "node:assert/strict";
import { mock, test } from "node:test";

const asked = [];
globalThis.document = { hidden: false, addEventListener: () => {} };
globalThis.fetch = (address, { signal }) => {
  asked.push({ address, signal });
  return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
};
mock.timers.enable({ apis: ["setTimeout"] });
const stream = await import("../../../ui/js/stream.js");
const never = new AbortController().signal;

test("the parts of a page that begin to follow together share one stream, from the lowest position", () => {
  stream.follow(["tasks"], "e7.h3", never, null);
  stream.follow(["hosts", "usage"], "e5.h4", never, null);
  mock.timers.tick(1000);

  assert.deepEqual(asked.map(({ address }) => address), ["/api/v1/stream?topics=hosts%2Ctasks%2Cusage&after=e5.h3"]);
});

test("what follows later takes the place of the stream that is there", () => {
  stream.follow(["events"], "e9.h9", never, null);
  mock.timers.tick(1000);

  assert.equal(asked.length, 2);
  assert.match(asked[1].address, /topics=events%2Chosts%2Ctasks%2Cusage&after=e5.h3/);
  assert.ok(asked[0].signal.aborted);
});

test("a stream that is never answered is tried again", () => {
  mock.timers.tick(12_000);

  assert.equal(asked.length, 3);
  assert.ok(asked[1].signal.aborted);
});
