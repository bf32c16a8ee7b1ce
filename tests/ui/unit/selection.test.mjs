import assert from "node:assert/strict";
import { test } from "node:test";

import { maintenanceLine, runLink } from "../../../ui/js/selection.js";

const many = Array.from({ length: 201 }, (_, at) => `h${at}`);

test("a few hosts are named, many by what describes just them, and else they are named, too", () => {
  assert.equal(runLink([], { group: "web" }, false), "/run?group=web");
  assert.equal(runLink(["a", "b"], { q: "x" }, true), "/run?hosts=a%2Cb");
  assert.equal(runLink(many, { group: "web" }, true), "/run?group=web");
  assert.equal(runLink(many, { q: "db -os:debian", group: "web", state: "online,stale" }, true), `/run?${new URLSearchParams({ q: "db -os:debian group:web state:online,stale" })}`);
  assert.equal(runLink(many, { state: "maintenance" }, true), "/run?q=is%3Amaintenance");
  assert.equal(runLink(many, {}, true), "/run?all=true");
  assert.match(runLink(many, { q: "x" }, false), /^\/run\?hosts=h0/);
});

test("a change of many hosts is a line of cpctl, which takes one at a time", () => {
  assert.equal(maintenanceLine(["a"], true), "cpctl hosts set a --maintenance on");
  assert.equal(maintenanceLine(["a", "b"], false), 'for host in a b; do cpctl hosts set "$host" --maintenance off; done');
  assert.deepEqual([maintenanceLine([], true), maintenanceLine(many, true)], ["", ""]);
});
