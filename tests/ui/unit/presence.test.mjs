import assert from "node:assert/strict";
import { test } from "node:test";

const { lineOf, spansOf, sumsOf } = await import("../../../ui/js/presence.js");
const { nearest, partsOf } = await import("../../../ui/js/nearest.js");

const MINUTE = 60_000;
const event = (kind, minute) => ({ kind: `host.${kind}`, recorded_at: new Date(minute * MINUTE).toISOString() });
const beat = (minute, usage) => ({ at: new Date(minute * MINUTE).toISOString(), cpu_usage: usage });

test("a range begins with the state that was before it, and each lasts until the next", () => {
  const events = [event("went_online", 50), event("groups_changed", 45), event("went_offline", 40), event("went_online", 10)];
  const spans = spansOf(events, 20 * MINUTE, 60 * MINUTE);

  assert.deepEqual(spans, [
    { state: "online", ms: 20 * MINUTE },
    { state: "offline", ms: 10 * MINUTE },
    { state: "online", ms: 10 * MINUTE },
  ]);
  assert.equal(sumsOf(spans).get("online"), 30 * MINUTE);
});

test("what was before the first event that is known is not made up", () => {
  const spans = spansOf([event("went_online", 40), event("registered", 30)], 20 * MINUTE, 60 * MINUTE);

  assert.deepEqual(spans.map(({ state }) => state), [null, "pending", "online"]);
  assert.deepEqual(spansOf([], 0, MINUTE), [{ state: null, ms: MINUTE }]);
});

test("what is heard of a revoked host does not bring it back, and a new registration does", () => {
  const events = [event("went_online", 50), event("registered", 40), event("went_offline", 30), event("revoked", 20), event("went_online", 0)];
  const spans = spansOf(events, 0, 60 * MINUTE);

  assert.deepEqual(spans.map(({ state }) => state), ["online", "revoked", "pending", "online"]);
});

test("a line has a gap where nothing was heard, and one heartbeat alone is a dot", () => {
  const items = [beat(0, 0), beat(1, 1), beat(30, 0.5), beat(59, 0)];

  assert.equal(lineOf(items, "cpu_usage", 0, 60 * MINUTE), "M0.0 89.0h.01L5.0 1.0M150.0 45.0h.01M295.0 89.0h.01");
});

test("points of a week are not apart only because they are thinned", () => {
  const items = [beat(0, 0), beat(34, 0), beat(120, 0)];

  assert.equal(lineOf(items, "cpu_usage", 0, 7 * 24 * 60 * MINUTE).match(/M/g).length, 2);
});

test("the names nearest to a mistyped one come first", () => {
  assert.deepEqual(nearest("webb-1", ["db-1", "web-10", "web-1", "web-1", "mail"], 3), ["web-1", "web-10", "db-1"]);
  assert.ok(partsOf("sim-00001").includes("sim"));
  assert.ok(partsOf("7").every((part) => part.length > 0));
});
