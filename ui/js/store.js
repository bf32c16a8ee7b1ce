// Rows of the read tables as the server gave them. A row replaces another only if it is newer, so order, repeats and
// overlaps of answers and stream do not matter.

// A tab that stays open for weeks holds no more than this of each; what was put first goes first.
const MOST = { hosts: 20_000, tasks: 2_000, executions: 50_000, events: 5_000 };

const tables = new Map();
const watchers = new Set();
let isDirty = false;

function table(name) {
  if (!tables.has(name)) tables.set(name, new Map());
  return tables.get(name);
}

/** How new a row is: the position that last changed it; a host's row has another one of its heartbeats. */
function age(pos, row) {
  return [pos, row.usage_pos ?? 0];
}

/** Take a row in; whether it was newer than what was there. */
export function put(name, id, pos, row) {
  const rows = table(name);
  const before = rows.get(id);
  const [event, usage] = age(pos, row);
  if (before && (before.age[0] > event || before.age[1] > usage || (before.age[0] === event && before.age[1] === usage))) return false;
  rows.set(id, { age: [event, usage], row });
  if (rows.size > (MOST[name] ?? Infinity)) rows.delete(rows.keys().next().value);
  mark(name);
  return true;
}

/** Change single fields of a row that is there, from a newer heartbeat. */
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

export function clear(name) {
  table(name).clear();
  mark(name);
}

/** Call `draw` at most once a frame after rows of these tables have changed, until the signal ends that. */
export function subscribe(names, draw, signal) {
  const watcher = { names: new Set(names), draw, isDirty: false };
  watchers.add(watcher);
  signal.addEventListener("abort", () => watchers.delete(watcher));
}

function mark(name) {
  for (const watcher of watchers) if (watcher.names.has(name)) watcher.isDirty = true;
  if (isDirty) return;
  isDirty = true;
  // A hidden tab gets no frames; what is dirty is then drawn once, when it is shown.
  globalThis.requestAnimationFrame(() => {
    isDirty = false;
    for (const watcher of [...watchers]) {
      if (!watcher.isDirty) continue;
      watcher.isDirty = false;
      watcher.draw();
    }
  });
}
