import assert from "node:assert/strict";
import { test } from "node:test";

import HOSTLISTS from "../../vectors/hostlist.json" with { type: "json" };

import { exact, json, pieces, printed, visible } from "../../../ui/js/ansi.js";
import { diff } from "../../../ui/js/diff.js";
import { bytes, fold, percent, relative } from "../../../ui/js/format.js";
import { link, match, safeNext } from "../../../ui/js/router.js";
import { ANSWERS, EXECUTION, ROLES, answersOf, attention, endedOf, segments, stateOf, taskState, toWatch } from "../../../ui/js/states.js";
import { createParser, createTail, liveness, lower } from "../../../ui/js/stream.js";

const shown = (source) => pieces(source).map((piece) => piece.text).join("");

test("colours of a terminal are kept, every other escape sequence is dropped", () => {
  assert.deepEqual(pieces("\x1b[1;31mred\x1b[0m plain"), [
    { text: "red", classes: ["c1", "bold"] },
    { text: " plain", classes: [] },
  ]);
  assert.equal(shown("a\x1b[2Jb\x1b]0;title\x07c\x1b[10;10Hd\x1b(Be"), "abcde");
  assert.equal(shown("\x1b[38;5;196mx\x1b[48;2;1;2;3my"), "xy");
});

test("what would deceive the eye becomes a visible mark", () => {
  assert.equal(shown("a\u202eb\u0000c"), "aU+202EbU+0000c");
  assert.deepEqual(pieces("\u200b"), [{ text: "U+200B", classes: ["mark"] }]);
  assert.equal(shown("tab\tand\nline"), "tab\tand\nline");
});

test("of what somebody wants run nothing is interpreted, and every character that is not seen as itself is marked", () => {
  assert.equal(exact("echo evil #\ruptime"), "echo evil #U+000Duptime");
  assert.equal(exact("uptime; : \x1b]0; echo evil #\x07"), "uptime; : U+001B]0; echo evil #U+0007");
  assert.equal(exact("a\n\nb\tc"), "aU+000A ×2\nbU+0009c");
  assert.equal(exact("a\u00a0b\ufe0f\u{e0065}\u{e0065}\u2800"), "aU+00A0bU+FE0FU+E0065 ×2U+2800");
  assert.equal(exact("echo '⚠' 主机  é"), "echo '⚠' 主机  é");
  assert.equal(json({ a: "b\r\u202e\x9b" }), '{"a":"b\\rU+202EU+009B"}');
  assert.deepEqual([json(null), json(undefined), json(0), json("")], ["", "", "0", '""']);
});

test("a carriage return overwrites its line, and a line's end in Windows is a line's end", () => {
  assert.equal(shown("10%\r50%\r100%\ndone\r\n"), "100%\ndone\n");
  assert.equal(shown("said\r\r"), "said");
  assert.equal(shown("\r"), "");
});

test("a title that never ends hides no line after its own", () => {
  assert.equal(shown("a\x1b]0;title\nb"), "a\nb");
});

test("output that means to stop the page does not: long lines take little time, a run of marks is one mark", () => {
  const long = "x".repeat(1024 * 1024);
  const before = performance.now();
  assert.equal(shown(long), long);
  assert.ok(performance.now() - before < 1000);
  assert.deepEqual(pieces("\0".repeat(65_536)), [{ text: "U+0000 ×65536", classes: ["mark"] }]);
  assert.equal(shown("\0\u202e\u202e"), "U+0000U+202E ×2");
});

const marked = (before, after) => diff(before, after).map(({ mark, line }) => mark + line);

test("a diff has the lines of both, each once", () => {
  assert.deepEqual(marked("a\nb\nc\nd\n", "a\nc\nx\nd\n"), [" a", "-b", " c", "+x", " d"]);
  assert.deepEqual(marked("", "new\n"), ["+new"]);
  assert.deepEqual(marked("old\n", ""), ["-old"]);
  assert.deepEqual(marked("same\n", "same\n"), [" same"]);
  assert.deepEqual(marked("a\na\n", "a\n"), [" a", "-a"]);
});

test("two texts that have too much in their middle to compare are shown one after the other", () => {
  const many = (word) => Array.from({ length: 2_100 }, (_, place) => `${word} ${place}`).join("\n");
  const found = marked(`first\n${many("a")}\nlast`, `first\n${many("b")}\nlast`);
  assert.deepEqual([found[0], found[1], found[2_101], found.at(-1)], [" first", "-a 0", "+b 0", " last"]);
  assert.equal(found.length, 4_202);
});

test("hostnames that differ in one number are one expression", () => {
  assert.equal(fold(["web01", "web02", "web03", "web10", "db1"]), "db1,web[01-03,10]");
  assert.equal(fold(["a.example.com", "b.example.com"]), "a.example.com,b.example.com");
  assert.equal(fold(["n9", "n10", "n11"]), "n9,n[10-11]");
  assert.equal(fold([]), "");
});

test("hostnames are folded as cpctl folds them", () => {
  for (const { hosts, folded } of HOSTLISTS) assert.equal(fold(hosts), folded);
});

test("a number of any length is folded to itself, and only what is there", () => {
  assert.equal(fold(["vm-12345678901234567890", "vm-12345678901234567891"]), "vm-[12345678901234567890-12345678901234567891]");
  assert.equal(fold(["vm-20261125093000123456", "vm-20261125093000123999"]), "vm-[20261125093000123456,20261125093000123999]");
  assert.equal(fold(["n0009", "n0010", "n0010"]), "n[0009-0010]");
  assert.equal(fold(["web1", "web1", "db", "db"]), "db,web1");
});

test("times, sizes and shares are short", () => {
  const now = Date.parse("2026-01-02T03:04:05Z");
  assert.equal(relative("2026-01-02T03:03:05Z", now), "1 min. ago");
  assert.equal(relative("2026-01-02T03:04:05Z", now), "now");
  assert.equal(relative("2026-01-02T05:04:05Z", now), "in 2 hr.");
  assert.deepEqual([0, 1023, 1536, 8 * 2 ** 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "8.0 GiB"]);
  assert.equal(percent(0.005), "1 %");
  assert.equal(percent(null), "");
});

test("every execution state has one answer and one role, and counts add up", () => {
  for (const state of Object.values(EXECUTION)) {
    assert.ok(ANSWERS.includes(state.answer));
    assert.ok(ROLES.includes(state.role));
  }
  const counts = Object.fromEntries(Object.keys(EXECUTION).map((state, place) => [state, place + 1]));
  const sum = (numbers) => numbers.reduce((total, count) => total + count, 0);
  assert.equal(sum(Object.values(answersOf(counts))), sum(Object.values(counts)));
  assert.equal(sum(segments(counts).map(([, count]) => count)), sum(Object.values(counts)));
  assert.equal(answersOf({ lost: 2, expired: 1 }).silent, 3);
  assert.equal(answersOf({ from_the_future: 1 }).waiting, 1);
  assert.equal(endedOf({ queued: 1, running: 2, accepted: 4, failed: 8, cancelled: 16 }), 24);
  assert.deepEqual([answersOf({ cancelled: 2 }).skipped, answersOf({ cancelled: 2 }).cancelled], [0, 2]); // it may have run
});

test("a state of a newer server is shown, not hidden", () => {
  assert.equal(stateOf("execution", "from_the_future").role, "wait");
  assert.equal(taskState({ state: "finished", outcome: "failed" }), "failed");
  assert.equal(taskState({ state: "running", outcome: null }), "running");
});

test("an address is a page and what it says to it", () => {
  assert.deepEqual(match("/hosts/web1.example.com", "?range=1h"), { name: "host", params: { range: "1h", hostname: "web1.example.com" } });
  assert.equal(match("/hosts/WEB1.Example.com").params.hostname, "web1.example.com");
  assert.deepEqual(match("/audit", "?hostname=WEB1&kind=A.B").params, { hostname: "web1", kind: "A.B" });
  assert.deepEqual(match("/tasks/T1", "?host=WEB1").params, { task_id: "T1", host: "web1" });
  assert.equal(match("/").name, "fleet");
  assert.equal(match("/hosts").name, "fleet");
  for (const path of ["/nothing/here", "/account", "/hosts/a/b", "/tasks/1/2", "/unknown", "/hosts/%E0%A4%A"]) assert.equal(match(path).name, "unknown");
  assert.equal(link("/run", { group: "web", q: "" }), "/run?group=web");
});

test("nobody is sent to another site after signing in", () => {
  assert.equal(safeNext("/tasks?state=running"), "/tasks?state=running");
  for (const next of ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:1", undefined, "/login"]) {
    assert.equal(safeNext(next), "/hosts");
  }
});

test("frames are read however the bytes are cut", () => {
  const text = 'event: rows\ndata: {"a":1}\nid: e1.h2\n\nevent: ping\ndata: {}\n\n';
  const whole = createParser()(text);
  const parse = createParser();
  const pieced = [...text].flatMap((letter) => parse(letter));
  assert.deepEqual(pieced, whole);
  assert.deepEqual(whole[0], { event: "rows", data: '{"a":1}', id: "e1.h2" });
  assert.equal(whole[1].id, null);
});

test("a page is live while frames come and the read tables keep up, and says since when it is not", () => {
  const at = 1_000_000;
  const ping = { lag: { events: 3, seconds: 0.1 } };
  const heard = { openedAt: at - 60_000, lastFrameAt: at, retryAt: 0, ping };
  assert.deepEqual(liveness(heard, at + 12_000), { kind: "live" });
  assert.deepEqual(liveness({ ...heard, ping: { lag: { events: 312, seconds: 2 } } }, at + 1000), { kind: "behind", n: 312 });
  assert.deepEqual(liveness(heard, at + 12_001), { kind: "connecting" });
  assert.deepEqual(liveness({ ...heard, retryAt: at + 5000 }, at + 1500), { kind: "waiting", n: 4 });
  assert.deepEqual(liveness({ ...heard, retryAt: at + 35_000 }, at + 30_001), { kind: "offline", since: at });
});

test("a page that nothing was read for is not old, and one that no frame came to is as old as what it read", () => {
  const nothing = { openedAt: 0, lastFrameAt: 0, retryAt: 0, ping: null };
  assert.deepEqual(liveness(nothing, 1_000_000), { kind: "connecting" });
  assert.deepEqual(liveness({ ...nothing, openedAt: 900_000 }, 1_000_000), { kind: "offline", since: 900_000 });
});

test("the lower of two positions misses nothing of either", () => {
  assert.equal(lower("e1.h9", "e2.h8"), "e1.h8");
  assert.equal(lower("e87.h0", "e90.h5"), "e87.h0");
  assert.equal(lower("e10.h10", "e9.h100"), "e9.h10");
});

test("a long line takes no longer than many short ones", () => {
  const long = "x".repeat(2 ** 20);
  assert.equal(shown(long).length, long.length);
  assert.equal(shown(`${long}\rend`), "end");
});

test("what a table shows of a host's text has marks, too", () => {
  assert.equal(visible("a\u202eb\x1b[31mc"), "aU+202EbU+001B[31mc");
  assert.equal(printed("a\u202eb\x1b[31mc"), "aU+202Ebc");
  assert.equal(visible("wrote\rread \u{e0041}"), "wroteU+000Dread U+E0041");
  assert.equal(visible(null), "");
});

const gap = (missing) => `<${missing}>`;

test("pieces of a stream are put together, also where one ends within a character", () => {
  const tail = createTail(100, gap);
  const text = (piece) => tail(piece).text;

  assert.equal(text({ offset: 0, data: "one\n", encoding: "utf-8" }), "one\n");
  assert.equal(text({ offset: 4, data: btoa("\xe2\x82"), encoding: "base64" }), "one\n");
  assert.equal(text({ offset: 6, data: btoa("\xac!"), encoding: "base64" }), "one\n€!");
  assert.equal(text({ offset: 8, data: btoa("\xff"), encoding: "base64" }), "one\n€!\ufffd");
});

test("what is missing between two pieces is said, and what comes twice is shown once", () => {
  const tail = createTail(100, gap);
  const text = (piece) => tail(piece).text;

  assert.equal(text({ offset: 5, data: "late", encoding: "utf-8" }), "<5>\nlate");
  assert.equal(text({ offset: 12, data: "é", encoding: "utf-8" }), "<5>\nlate\n<3>\né");
  assert.equal(text({ offset: 12, data: "és", encoding: "utf-8" }), "<5>\nlate\n<3>\nés");
  assert.equal(text({ offset: 5, data: "late", encoding: "utf-8" }), "<5>\nlate\n<3>\nés");
  assert.equal(tail({ offset: 5, data: "late", encoding: "utf-8" }).bytes, 15, "of all that was printed");
});

test("of a stream its end is shown", () => {
  const tail = createTail(4, gap);
  const text = (piece) => tail(piece).text;

  assert.equal(text({ offset: 0, data: "abcdef", encoding: "utf-8" }), "cdef");
  assert.equal(text({ offset: 6, data: "g", encoding: "utf-8" }), "defg");
});

test("what went wrong stands before what goes on, and that before what is as it should be", () => {
  const states = Object.keys(EXECUTION).sort((a, b) => attention(a) - attention(b));
  const groups = [["failed", "timed_out", "lost", "interrupted", "rejected", "expired"], ["running", "accepted", "sent", "queued"], ["skipped", "cancelled", "succeeded"]];
  assert.deepEqual(states, groups.flat());
  assert.ok(attention("from_the_future") < attention("failed"));
});

test("the places of live output go to hosts that are at work, and stay with those that have them", () => {
  const rows = (state, ...names) => names.map((hostname) => ({ hostname, state }));
  const open = [...rows("queued", "a1", "a2"), ...rows("running", "b1", "b2", "b3")];
  assert.deepEqual(toWatch(open, new Set(), 2), ["b1", "b2"]);
  assert.deepEqual(toWatch(open, new Set(["a1", "b3"]), 2), ["b3", "b1"]);
  assert.deepEqual(toWatch(open, new Set(["b3"]), 9), ["b3", "b1", "b2", "a1", "a2"]);
});
