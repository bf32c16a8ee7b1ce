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
