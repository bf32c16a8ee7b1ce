import assert from "node:assert/strict";
import { test } from "node:test";

import { delaysOf, middleDelays, paceOf } from "../../../ui/js/delays.js";
import { MOST_MATCHES, drawn, find, linesOf, marked, seen, textOf } from "../../../ui/js/lines.js";

const bytes = (...values) => Uint8Array.from(values);

test("lines are what stands between line ends, and an end of the last makes no other", () => {
  assert.deepEqual(linesOf("one\ntwo\n"), ["one", "two"]);
  assert.deepEqual(linesOf("one\n\ntwo"), ["one", "", "two"]);
  assert.deepEqual(linesOf("10%\r100%\r\n"), ["100%"]);
  assert.deepEqual(linesOf(""), []);
});

test("a range that begins or ends within a character is text, and what is no text is none", () => {
  const data = new TextEncoder().encode("a啊b");
  assert.equal(textOf(data), "a啊b");
  assert.equal(textOf(data.subarray(0, 3)), "a");
  assert.equal(textOf(data.subarray(2)), "b");
  assert.equal(textOf(bytes(0xff, 0xfe)), null);
  assert.equal(textOf(bytes()), "");
});

test("a search finds all that is seen, whatever its case, and takes nothing of it for a pattern", () => {
  const text = seen(["Error: a.b", "\x1b[31merr\x1b[0mor", "", "a+b error error"]);
  assert.deepEqual(find(text, "ERROR"), [
    { line: 0, from: 0, to: 5 },
    { line: 1, from: 0, to: 5 },
    { line: 3, from: 4, to: 9 },
    { line: 3, from: 10, to: 15 },
  ]);
  assert.deepEqual(find(text, "a.b").map(({ line }) => line), [0]);
  assert.deepEqual(find(text, "a+b").map(({ line }) => line), [3]);
  assert.deepEqual(find(text, "[31m"), []);
  assert.deepEqual(find(text, ""), []);
  assert.equal(find("x".repeat(MOST_MATCHES + 5), "x").length, MOST_MATCHES);
});

test("a part of the lines is drawn in the colours that hold there", () => {
  const lines = linesOf("a\x1b[31mb\nc\nd\x1b[0me\n\n");
  assert.deepEqual(drawn(lines, 1, 4), [[{ text: "c", classes: ["c1"] }], [{ text: "d", classes: ["c1"] }, { text: "e", classes: [] }], []]);
  assert.deepEqual(drawn(lines, 0, 1), [[{ text: "a", classes: [] }, { text: "b", classes: ["c1"] }]]);
});

test("of a line without an end its start is drawn, with how much is left", () => {
  const [parts] = drawn(["x".repeat(20_005)], 0, 1);
  assert.deepEqual(parts.map(({ text }) => text.length > 100 ? text.length : text), [20_000, "… +5"]);
});

test("what was found is cut out of the pieces that it is in", () => {
  const parts = [{ text: "one t", classes: [] }, { text: "wo", classes: ["c1"] }];
  const match = { line: 0, from: 4, to: 7 };
  assert.deepEqual(marked(parts, [match]), [{ text: "one ", classes: [] }, { text: "t", classes: [], match }, { text: "wo", classes: ["c1"], match }]);
  assert.deepEqual(marked(parts, []), parts);
});

const at = (ms) => new Date(1_700_000_000_000 + ms).toISOString();
const nothing = { queued_at: at(0), sent_at: null, accepted_at: null, finished_at: null, result_seq: null };

test("each step has its delay as far as both of its ends are known", () => {
  const long = { ...nothing, sent_at: at(12), accepted_at: at(52), finished_at: at(3152), result_seq: 7 };
  assert.deepEqual(delaysOf(long), { queued: 12, delivered: 40, ran: 3100, answered: null });
  const short = { ...nothing, sent_at: at(12), finished_at: at(20), result_seq: 7 };
  assert.deepEqual(delaysOf(short), { queued: 12, delivered: null, ran: null, answered: 8 });
  assert.deepEqual(delaysOf(nothing), { queued: null, delivered: null, ran: null, answered: null });
});

test("what was given up did not run until then", () => {
  const lost = { ...nothing, sent_at: at(12), accepted_at: at(52), finished_at: at(600_000) };
  assert.equal(delaysOf(lost).ran, null);
});

test("of many hosts the middle one is told", () => {
  const sent = [5, 1000, 10].map((ms) => ({ ...nothing, sent_at: at(ms) }));
  assert.deepEqual(middleDelays(sent), { queued: 10 });
  assert.deepEqual(middleDelays([]), {});
});

test("how long it may take is said from a tenth on, and not once all have ended", () => {
  assert.equal(paceOf(9, 100, 0, 1000), null);
  assert.deepEqual(paceOf(10, 100, 0, 1000), { rate: 10, leftMs: 9000 });
  assert.equal(paceOf(100, 100, 0, 1000), null);
  assert.equal(paceOf(0, 4, 0, 1000), null);
  assert.equal(paceOf(1, 4, 1000, 1000), null);
});
