// Every state: its role (colour), its shape, and what it answers. One table for badge, bar, legend and tests.
export const ROLES = ["ok", "fail", "warn", "none", "stop", "run", "wait"];

const is = (role, shape, answer) => ({ role, shape, answer });

export const EXECUTION = {
  queued: is("wait", "dots", "waiting"),
  sent: is("wait", "dotring", "waiting"),
  accepted: is("run", "half", "waiting"),
  running: is("run", "play", "running"),
  succeeded: is("ok", "check", "worked"),
  failed: is("fail", "cross", "failed"),
  rejected: is("fail", "octagon", "failed"),
  timed_out: is("warn", "clock", "failed"),
  interrupted: is("warn", "gap", "failed"),
  lost: is("none", "question", "silent"),
  expired: is("none", "hourglass", "silent"),
  skipped: is("stop", "skip", "skipped"),
  cancelled: is("stop", "bar", "cancelled"),
};

/**
 * The one order of a task's hosts, of its outputs and of what may be tried again: by how much somebody has to look.
 * First what went wrong, then what has not ended, last what is as it was meant to be.
 */
const BY_ATTENTION = [
  ...["failed", "timed_out", "lost", "interrupted", "rejected", "expired"],
  ...["running", "accepted", "sent", "queued"],
  ...["skipped", "cancelled", "succeeded"],
];

/** Where a state stands in that order; one of a newer server is first. */
export function attention(state) {
  return BY_ATTENTION.indexOf(state);
}

export const isOpen = (state) => ["running", "waiting"].includes(EXECUTION[state]?.answer ?? "waiting");

/** It was sent to its host, and has not ended. */
export const isAtWork = ({ state }) => isOpen(state) && state !== "queued";

/**
 * The hosts whose live output is worth the few places that a stream has: of executions that have not ended those that
 * are at work, and those of them that are `watched` already.
 */
export function toWatch(executions, watched, most) {
  const rank = (row) => (isAtWork(row) ? 0 : 2) + (watched.has(row.hostname) ? 0 : 1);
  const sorted = executions.toSorted((a, b) => rank(a) - rank(b) || (a.hostname < b.hostname ? -1 : 1));
  return sorted.slice(0, most).map((row) => row.hostname);
}

export const HOST = {
  online: is("ok", "disc"),
  stale: is("warn", "triangle"),
  offline: is("none", "ring"),
  pending: is("wait", "dotted"),
  revoked: is("stop", "square"),
  retired: is("stop", "open"),
};

const TASK = {
  running: is("run", "play"),
  paused: is("stop", "pause"),
  cancelling: is("stop", "diamond"),
  succeeded: is("ok", "check"),
  failed: is("fail", "cross"),
  cancelled: is("stop", "bar"),
};

const PROJECTION = {
  live: is("ok", "check"),
  "catching up": is("run", "half"),
  stopped: is("fail", "cross"),
  missing: is("none", "question"),
};

const CHECK = { ok: is("ok", "check"), warning: is("warn", "triangle"), failing: is("fail", "cross") };

const MARK = { quarantined: is("fail", "octagon") };

const TABLES = { mark: MARK, execution: EXECUTION, host: HOST, task: TASK, projection: PROJECTION, check: CHECK };

/** Role and shape of a state, and the key of its word; a state of a newer server is shown as it is called. */
export function stateOf(kind, state) {
  return { ...(TABLES[kind][state] ?? is("wait", "dots")), word: `state.${kind}.${state}` };
}

/** What a task shows: its outcome once it has one. */
export function taskState(task) {
  return task.state === "finished" ? task.outcome : task.state;
}

export const ANSWERS = ["worked", "failed", "silent", "cancelled", "skipped", "running", "waiting"];

/** How many hosts worked, did not work, did not answer, were cancelled (some had run by then), never ran it, run it now, and wait for it. */
export function answersOf(counts) {
  const sums = Object.fromEntries(ANSWERS.map((answer) => [answer, 0]));
  for (const [state, count] of Object.entries(counts)) sums[EXECUTION[state]?.answer ?? "waiting"] += count;
  return sums;
}

/** How many hosts have come to an end, whichever. */
export function endedOf(counts) {
  const { running, waiting, ...ended } = answersOf(counts);
  return Object.values(ended).reduce((sum, count) => sum + count, 0);
}

/** The segments of a task's bar in their order: `[role, count]`, without the empty ones. */
export function segments(counts) {
  const sums = Object.fromEntries(ROLES.map((role) => [role, 0]));
  for (const [state, count] of Object.entries(counts)) sums[EXECUTION[state]?.role ?? "wait"] += count;
  return Object.entries(sums).filter(([, count]) => count > 0);
}
