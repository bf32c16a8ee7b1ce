// Rows as the server gave them. Only a newer one replaces another, so order, repeats and overlaps do not matter.

// More than this a tab that stays open for weeks does not hold.
const MOST = { hosts: 20_000, tasks: 2_000, executions: 50_000, events: 5_000 };

const tables = new Map();
const watchers = new Set();
let isDirty = false;

function table(name) {
  if (!tables.has(name)) tables.set(name, new Map());
  return tables.get(name);
}

export function put(name, id, pos, row) {
  const rows = table(name);
  const before = rows.get(id);
  const age = [pos, row.usage_pos ?? 0]; // a host's has another position of its heartbeats
  if (before && (before.age[0] > pos || before.age[1] > age[1] || String(before.age) === String(age))) return false;
  rows.set(id, { age, row });
  if (rows.size > (MOST[name] ?? Infinity)) rows.delete(rows.keys().next().value);
  mark(name);
  return true;
}

export function refresh(name, id, usagePos, fields) {
  const before = table(name).get(id);
  if (!before || before.age[1] >= usagePos) return;
  table(name).set(id, { age: [before.age[0], usagePos], row: { ...before.row, ...fields, usage_pos: usagePos } });
  mark(name);
}

export function one(name, id) {
  return table(name).get(id)?.row;
}

export function all(name) {
  return [...table(name).values()].map((entry) => entry.row);
}

/** Forget the rows of a table, or of all. */
export function clear(name) {
  for (const each of name ? [name] : tables.keys()) {
    table(each).clear();
    mark(each);
  }
}

/** Call `draw` at most once a frame after rows of these tables have changed. */
export function subscribe(names, draw, signal) {
  const watcher = { names: new Set(names), draw, isDirty: false };
  watchers.add(watcher);
  signal.addEventListener("abort", () => watchers.delete(watcher));
}

function mark(name) {
  for (const watcher of watchers) if (watcher.names.has(name)) watcher.isDirty = true;
  if (isDirty) return;
  isDirty = true;
  // A hidden tab gets no frames, and is drawn once when it is shown.
  globalThis.requestAnimationFrame(() => {
    isDirty = false;
    for (const watcher of [...watchers]) {
      if (!watcher.isDirty) continue;
      watcher.isDirty = false;
      watcher.draw();
    }
  });
}
