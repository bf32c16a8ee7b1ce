import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.setInterval = () => {}; // the page's clock
const { changesBetween, partsOf, windowOf } = await import("../../../ui/js/rows.js");
const { layoutOf, placeOf, step, tileAt } = await import("../../../ui/js/grid.js");

const seen = (above, count = 10_000) => windowOf({ above, height: 720, rowHeight: 36, count });

test("of ten thousand rows those in sight are held, with a few around them", () => {
  assert.deepEqual(seen(0), { from: 0, to: 30 });
  assert.deepEqual(seen(3600), { from: 90, to: 130 });
  assert.deepEqual(seen(3620), { from: 90, to: 140 });
  assert.deepEqual(seen(36 * 10_000 - 720), { from: 9970, to: 10_000 });
});

test("a table that is out of sight holds some rows all the same, so that the keyboard gets into it", () => {
  assert.deepEqual(seen(-5000), { from: 0, to: 20 });
  assert.deepEqual(seen(1e9), { from: 9980, to: 10_000 });
  assert.deepEqual(seen(-5000, 3), { from: 0, to: 3 });
  assert.deepEqual(seen(0, 0), { from: 0, to: 0 });
});

test("what is left out keeps its place, and the row with the focus stays", () => {
  const shown = (window, count, more) => partsOf(window, count, more).map(({ place, gap }) => place ?? `-${gap}`);
  assert.deepEqual(shown({ from: 0, to: 3 }, 3), [0, 1, 2]);
  assert.deepEqual(shown({ from: 2, to: 4 }, 9), ["-2", 2, 3, "-5"]);
  assert.deepEqual(shown({ from: 4, to: 6 }, 9, 1), ["-1", 1, "-2", 4, 5, "-3"]);
  assert.deepEqual(shown({ from: 0, to: 2 }, 9, 8), [0, 1, "-6", 8]);
  assert.deepEqual(shown({ from: 0, to: 2 }, 9, 2), [0, 1, 2, "-6"]);
  assert.deepEqual(shown({ from: 0, to: 0 }, 0), []);
});

test("changes of an order are the fewest rows that come, go or move", () => {
  const changes = (before, after) => changesBetween([...before], [...after]);
  assert.equal(changes("abcd", "abcd"), 0);
  assert.equal(changes("abcd", "abxcd"), 1);
  assert.equal(changes("abcd", "acd"), 1);
  assert.equal(changes("abcd", "bcda"), 1);
  assert.equal(changes("abcd", "xcba"), 4);
  assert.equal(changes("", "ab"), 2);
});

const hosts = (count) => Array.from({ length: count }, (_, at) => ({ hostname: `h${at}` }));
const grid = layoutOf([{ name: "a", hosts: hosts(7) }, { name: "b", hosts: hosts(2) }], 40); // three to a row

test("tiles lie in rows under their heading, and are found where they lie", () => {
  assert.deepEqual([grid.columns, grid.count, grid.height], [3, 9, 26 + 3 * 14 + 26 + 14]);
  for (let tile = 0; tile < grid.count; tile += 1) {
    const { x, y } = placeOf(grid, tile);
    assert.equal(tileAt(grid, x + 6, y + 6), tile);
  }
  assert.deepEqual(placeOf(grid, 7), { x: 0, y: 94 });
  assert.deepEqual([tileAt(grid, 20, 10), tileAt(grid, 20, 60), tileAt(grid, 50, 30), tileAt(grid, 5, 999)], [-1, -1, -1, -1]);
});

test("arrows go through all tiles, in columns and over headings", () => {
  const way = (from, ...keys) => keys.map((key) => (from = step(grid, from, key)));
  assert.deepEqual(way(0, "ArrowRight", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown"), [1, 4, 6, 7, 7]);
  assert.deepEqual(way(8, "ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowLeft"), [6, 3, 0, 0, 0]);
  assert.deepEqual(way(3, "End", "ArrowRight", "Home"), [8, 8, 0]);
});
