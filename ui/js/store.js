// Rows as the server gave them. Only a newer one replaces another, so order, repeats and overlaps do not matter.
/** @import {Aged, Counts, Id, Table, Tables} from "./app.js" */

// More than this a tab that stays open for weeks does not hold.
/** @type {Counts} */
const MOST = { hosts: 20_000, tasks: 2_000, executions: 50_000, events: 5_000 };
const SLACK = 1.1; // beyond that many times as many are let go, so that this is seldom

/** @type {Map<Table, Map<Id, Aged<Tables[Table]>>>} */
const tables = new Map();
/** @type {Set<{names: Set<Table>, draw: () => unknown, isDirty: boolean}>} */
const watchers = new Set();
/** What is not let go. @type {Set<{name: Table, isKept: (row: any) => boolean}>} */
const keepers = new Set([{ name: "tasks", isKept: ({ state }) => state !== "finished" }]);
let isDirty = false;

/** @template {Table} N @param {N} name @returns {Map<Id, Aged<Tables[N]>>} */
function table(name) {
  const rows = tables.get(name) ?? new Map();
  tables.set(name, rows);
  return rows;
}

/** @template {Table} N @param {N} name @param {Id} id @param {number} pos
 * @param {Tables[N] & {usage_pos?: number}} row */
export function put(name, id, pos, row) {
  const rows = table(name);
  const before = rows.get(id);
  /** @type {[number, number]} */
  const age = [pos, row.usage_pos ?? 0]; // a host's has another position of its heartbeats
  if (before && (before.age[0] > pos || before.age[1] > age[1] || String(before.age) === String(age))) return false;
  rows.set(id, { age, row });
  mark(name);
  return true;
}

/** @param {"hosts"} name @param {string} id @param {number} usagePos @param {Partial<Tables["hosts"]>} fields */
export function refresh(name, id, usagePos, fields) {
  const before = table(name).get(id);
  if (!before || before.age[1] >= usagePos) return;
  table(name).set(id, { age: [before.age[0], usagePos], row: { ...before.row, ...fields, usage_pos: usagePos } });
  mark(name);
}

/** @template {Table} N @param {N} name @param {Id} id */
export function one(name, id) {
  return table(name).get(id)?.row;
}

/** @template {Table} N @param {N} name */
export function all(name) {
  return Array.from(table(name).values(), (entry) => entry.row);
}

/** Forget the rows of a table, or of all. @param {Table} [name] */
export function clear(name) {
  for (const each of name ? [name] : tables.keys()) {
    table(each).clear();
    mark(each);
  }
}

/** Call `draw` at most once a frame after rows of these tables have changed.
 * @param {Table[]} names @param {() => unknown} draw @param {AbortSignal} signal */
export function subscribe(names, draw, signal) {
  const watcher = { names: new Set(names), draw, isDirty: false };
  watchers.add(watcher);
  signal.addEventListener("abort", () => watchers.delete(watcher));
}

/** Hold these rows of a table, however many others come. @template {Table} N
 * @param {N} name @param {(row: Tables[N]) => boolean} isKept @param {AbortSignal} signal */
export function keep(name, isKept, signal) {
  const keeper = { name, isKept };
  keepers.add(keeper);
  signal.addEventListener("abort", () => keepers.delete(keeper));
}

/** Let those go that have not changed for longest. @param {Table} name */
function trim(name) {
  const [rows, most] = [table(name), MOST[name]];
  if (!(rows.size > most * SLACK)) return;
  const its = [...keepers].filter((keeper) => keeper.name === name);
  const left = [...rows].filter(([, { row }]) => !its.some(({ isKept }) => isKept(row)));
  left.sort(([, one], [, other]) => one.age[0] - other.age[0]);
  for (const [id] of left.slice(0, rows.size - most)) rows.delete(id);
}

/** @param {Table} name */
function mark(name) {
  for (const watcher of watchers) if (watcher.names.has(name)) watcher.isDirty = true;
  if (isDirty) return;
  isDirty = true;
  // A hidden tab gets no frames, and is drawn once when it is shown.
  globalThis.requestAnimationFrame(() => {
    isDirty = false;
    for (const each of tables.keys()) trim(each);
    for (const watcher of [...watchers]) {
      if (!watcher.isDirty) continue;
      watcher.isDirty = false;
      watcher.draw();
    }
  });
}
