import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.location = new URL("https://plane.example/tasks?q=uptime&at=7");
const { absolute, clock, fromField, toField, useUtc } = await import("../../../ui/js/format.js");
const { atMoment, moment } = await import("../../../ui/js/router.js");
const stream = await import("../../../ui/js/stream.js");

test("the same page as of another moment, and as it is now", () => {
  assert.equal(moment(), "7");
  assert.equal(atMoment("2026-01-31T10:42:07Z"), "/tasks?q=uptime&at=2026-01-31T10%3A42%3A07Z");
  assert.equal(atMoment(8), "/tasks?q=uptime&at=8");
  assert.equal(atMoment(null), "/tasks?q=uptime");
});

test("a date-time field says the time that it shows, in whichever zone times are told", () => {
  for (const isUtc of [true, false]) {
    useUtc(isUtc);
    assert.equal(fromField(toField("2026-01-31T10:42:07.123456Z")), "2026-01-31T10:42:07Z");
  }
  assert.equal(toField("no time"), "");
  assert.equal(toField(undefined), "");
  assert.equal(fromField(""), "");
});

test("a time in UTC says that it is", () => {
  useUtc(true);
  assert.match(absolute("2026-01-31T10:42:07Z"), /^Jan 31, 2026, 10:42:07.AM UTC$/);
  assert.match(clock("2026-01-31T10:42:07Z"), /^10:42:07.AM UTC$/);
  assert.equal(toField("2026-01-31T10:42:07Z"), "2026-01-31T10:42:07");
  useUtc(false);
  assert.doesNotMatch(absolute("2026-01-31T10:42:07Z"), /UTC/);
});

test("while a moment of the past is shown, it is then", () => {
  stream.showMoment(1000);
  assert.equal(stream.now(), 1000);
  stream.showMoment(null);
  assert.ok(Math.abs(stream.now() - Date.now()) < 5000);
});
