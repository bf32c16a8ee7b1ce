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
const store = await import("../../../ui/js/store.js");
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

test("where what commands print is refused, the stream goes on without it", async () => {
  const answers = [];
  globalThis.fetch = (address) => {
    asked.push({ address });
    return new Promise((resolve) => answers.push(resolve));
  };
  let refusals = 0;
  stream.watch("t1", never, { onRefused: () => (refusals += 1) })(["web1", "web2"]);
  mock.timers.tick(1000);
  const watched = decodeURIComponent(asked.at(-1).address);
  answers.pop()({ ok: false, status: 422 });
  await new Promise(setImmediate);
  mock.timers.tick(2000);

  assert.match(watched, /output:t1:web1,output:t1:web2/);
  assert.doesNotMatch(decodeURIComponent(asked.at(-1).address), /output/);
  assert.equal(answers.length, 1);
  assert.equal(refusals, 1);
});

test("what a command prints comes to who watches its host, until it has ended", async () => {
  let controller;
  const body = new ReadableStream({ start: (made) => (controller = made) }).pipeThrough(new TextEncoderStream());
  globalThis.fetch = async (address) => {
    asked.push({ address });
    return { ok: true, body };
  };
  const told = [];
  const watch = stream.watch("t1", never, { onPiece: ({ data }) => told.push(data), onEnd: (hostname) => told.push(`end of ${hostname}`) });
  watch(["web1", "web2"]);
  mock.timers.tick(50);
  const piece = (hostname, data) => controller.enqueue(`event: output\ndata: ${JSON.stringify({ task_id: "t1", hostname, data })}\n\n`);
  piece("web1", "one");
  piece("web3", "not watched");
  controller.enqueue('event: output_end\ndata: {"task_id":"t1","hostname":"web1"}\n\n');
  controller.enqueue('event: output_end\ndata: {"task_id":"t1","hostname":"web1"}\n\n');
  piece("web1", "after its end");
  piece("web2", "two");
  while (told.at(-1) !== "two") await new Promise(setImmediate);

  assert.deepEqual(told, ["one", "end of web1", "two"]);
  watch(["web2", "web3"]);
  mock.timers.tick(50);
  assert.match(decodeURIComponent(asked.at(-1).address), /output:t1:web2,output:t1:web3/);
});

test("what still comes on the stream that is to be replaced does not move the position past what is asked for", async () => {
  const streams = [];
  globalThis.fetch = async (address) => {
    asked.push({ address });
    const body = new ReadableStream({ start: (made) => streams.push(made) }).pipeThrough(new TextEncoderStream());
    return { ok: true, body };
  };
  const pings = [];
  stream.onState(({ ping }) => pings.push(ping?.now));
  const say = async (id, now) => {
    const heads = { now, lag: { seconds: 0 } };
    streams.at(-1).enqueue(`event: ping\ndata: ${JSON.stringify(heads)}\nid: ${id}\n\n`);
    while (pings.at(-1) !== now) await new Promise(setImmediate);
  };
  const after = () => new URL(asked.at(-1).address, "http://here").searchParams.get("after");
  stream.connect();
  await say("e20.h20", "2026-01-01T00:00:01Z");

  stream.follow(["task:t2"], "e15.h0", never, null);
  await say("e30.h30", "2026-01-01T00:00:02Z");
  mock.timers.tick(50);
  assert.equal(after(), "e15.h0");

  await say("e31.h31", "2026-01-01T00:00:03Z");
  stream.connect();
  assert.equal(after(), "e31.h31");
});

test("frames that are nonsense change nothing, and the stream is tried again, each time later", async () => {
  const nonsense = ["{", "null", "[]", '{"table":"hosts","rows":7}', '{"table":"hosts","rows":[7]}', '{"table":"hosts","rows":[[1,null]]}'];
  const waits = [];
  stream.onState(({ retryAt }) => retryAt && waits.push(retryAt));
  for (const data of nonsense) {
    globalThis.fetch = async () => ({ ok: true, body: new Blob([`event: rows\ndata: ${data}\nid: e99.h99\n\n`]).stream() });
    const count = waits.length;
    const before = Date.now();
    stream.connect();
    while (waits.length === count) await new Promise(setImmediate);
    waits[count] -= before;
  }
  assert.equal(store.all("hosts").length, 0);
  assert.ok(waits.every((wait, place) => wait >= 0.7 * 1000 * Math.min(30, 2 ** place)), String(waits));
  globalThis.fetch = (address) => new Promise(() => asked.push({ address }));
  stream.connect();
  assert.doesNotMatch(asked.at(-1).address, /e99/);
});

test("once the log was put back nothing is left of what was told, whichever page showed it", async () => {
  const given = Promise.withResolvers();
  const again = [];
  globalThis.requestAnimationFrame = () => {};
  globalThis.fetch = async () => new Response(new ReadableStream({ start: given.resolve }));
  store.put("hosts", "web1", 90, { hostname: "web1", state: "offline" });
  store.put("stop", "", 90, { stopped: true });
  stream.follow(["tasks", "system"], "e9.h9", never, () => again.push(store.put("tasks", "read anew", again.length, {})));
  stream.connect();
  const controller = await given.promise;
  for (const topic of ["tasks", "system"]) {
    const count = again.length;
    controller.enqueue(new TextEncoder().encode(`event: reset\ndata: {"topic":"${topic}"}\n\n`));
    while (again.length === count) await new Promise(setImmediate);
    if (!count) store.put("tasks", "answered", 1, { task_id: "answered" });
  }

  assert.ok(store.put("hosts", "web1", 20, { hostname: "web1", state: "online" }), "an older position is news");
  assert.ok(store.one("tasks", "answered"), "what was read anew by the second topic's reset stays");
  assert.ok(store.one("stop", "").stopped);
  controller.close();
});

test("a stream that is refused as a whole is not asked for again until a page asks for more", async () => {
  let requests = 0;
  globalThis.fetch = async () => ((requests += 1), { ok: false, status: 403 });
  const kind = () => stream.liveness(stream.state, Date.now()).kind;
  stream.connect();
  while (kind() !== "refused") await new Promise(setImmediate);
  mock.timers.tick(120_000); // answers of other tests that never came are given up
  while (kind() !== "refused") await new Promise(setImmediate);
  requests = 0;
  mock.timers.tick(120_000);
  await new Promise(setImmediate);
  assert.equal(requests, 0);

  stream.follow(["task:t9"], "e40.h40", never, null);
  mock.timers.tick(50);
  assert.equal(requests, 1);
});
