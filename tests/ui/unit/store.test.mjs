import assert from "node:assert/strict";
import { test } from "node:test";

let frames = [];
globalThis.requestAnimationFrame = (draw) => frames.push(draw);
const store = await import("../../../ui/js/store.js");
const paint = () => frames.splice(0).forEach((draw) => draw());

test("a row replaces another only if it is newer", () => {
  assert.ok(store.put("tasks", "a", 5, { state: "finished" }));
  assert.ok(!store.put("tasks", "a", 4, { state: "running" }));
  assert.ok(!store.put("tasks", "a", 5, { state: "running" }));
  assert.equal(store.one("tasks", "a").state, "finished");
});

test("a host has two ages, and neither goes back", () => {
  store.put("hosts", "web1", 1, { hostname: "web1", usage_pos: 1, cpu_usage: 0.1 });
  store.refresh("hosts", "web1", 3, { cpu_usage: 0.3 });
  store.refresh("hosts", "web1", 2, { cpu_usage: 0.2 });
  assert.equal(store.one("hosts", "web1").cpu_usage, 0.3);
  assert.ok(!store.put("hosts", "web1", 2, { hostname: "web1", usage_pos: 2, cpu_usage: 0.2 }));
  assert.ok(store.put("hosts", "web1", 2, { hostname: "web1", usage_pos: 3, cpu_usage: 0.3, state: "stale" }));
});

test("a hundred changes are drawn once, and an ended view not at all", () => {
  const controller = new AbortController();
  let drawn = 0;
  store.subscribe(["events"], () => (drawn += 1), controller.signal);
  for (let seq = 1; seq <= 100; seq += 1) store.put("events", seq, seq, { seq });
  paint();
  assert.equal(drawn, 1);
  store.put("tasks", "b", 1, {});
  paint();
  assert.equal(drawn, 1);
  controller.abort();
  store.put("events", 101, 101, {});
  paint();
  assert.equal(drawn, 1);
});

test("a tab that stays open holds a bounded number of rows, the newest", () => {
  store.clear();
  for (let seq = 5600; seq >= 1; seq -= 1) store.put("events", seq, seq, { seq });
  paint();
  assert.equal(store.all("events").length, 5000);
  assert.ok(store.one("events", 5600));
  assert.equal(store.one("events", 600), undefined);
});

test("a task that runs, and what a page shows, outlive any number of others", () => {
  const page = new AbortController();
  store.clear();
  store.keep("tasks", (row) => row.seq === 2, page.signal);
  store.put("tasks", "runs", 1, { seq: 1, state: "running" });
  store.put("tasks", "open", 2, { seq: 2, state: "finished" });
  const others = (from) => {
    for (let seq = from; seq < from + 2500; seq += 1) store.put("tasks", `other${seq}`, seq, { seq, state: "finished" });
    paint();
  };
  others(3);
  assert.equal(store.all("tasks").length, 2000);
  assert.ok(store.one("tasks", "runs") && store.one("tasks", "open"));
  page.abort();
  others(3000);
  assert.ok(store.one("tasks", "runs"));
  assert.equal(store.one("tasks", "open"), undefined);
});
