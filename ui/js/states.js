// `states.json` has the roles in the order of a bar, executions by how much somebody has to look.
/** @import {Counts, HasState, Kind, OfHost, States} from "./app.js" */
import STATES_JSON from "../states.json" with { type: "json" };

/** @type {States} */
const STATES = STATES_JSON;
export const { roles: ROLES, answers: ANSWERS, execution: EXECUTION, host: HOST, shapes: SHAPES } = STATES;

/** @template {string} N @param {N} name
 * @returns {(one: Record<N, string | number>, other: Record<N, string | number>) => number} */
export const by = (name) => (one, other) => (one[name] < other[name] ? -1 : 1);
/** @param {string} state */
export const attention = (state) => Object.keys(EXECUTION).indexOf(state);
/** @param {HasState} one @param {HasState} other */
export const byAttention = (one, other) => attention(one.state) - attention(other.state);

/** @param {string} state */
const answerOf = (state) => EXECUTION[state]?.answer ?? "waiting";
/** @param {string} state */
export const isOpen = (state) => ["running", "waiting"].includes(answerOf(state));
/** @param {HasState} row */
export const isAtWork = ({ state }) => isOpen(state) && state !== "queued";

/** Who gets the few places for live output: who is at work, and who is `watched` already.
 * @param {OfHost[]} executions @param {{has(hostname: string): boolean}} watched @param {number} most */
export function toWatch(executions, watched, most) {
  /** @param {OfHost} row */
  const rank = (row) => (isAtWork(row) ? 0 : 2) + (watched.has(row.hostname) ? 0 : 1);
  const sorted = executions.toSorted((a, b) => rank(a) - rank(b) || by("hostname")(a, b));
  return sorted.slice(0, most).map((row) => row.hostname);
}

/** A state of a newer server is shown as it is called. @param {Kind} kind @param {string} state */
export function stateOf(kind, state) {
  return { ...(STATES[kind][state] ?? { role: "wait", shape: "dots" }), word: `state.${kind}.${state}` };
}

/** @param {{state: string, outcome: ?string}} task */
export const taskState = (task) => (task.state === "finished" && task.outcome) || task.state;

/** @param {Counts} counts */
export const answersOf = (counts) => sumBy(ANSWERS, counts, answerOf);

/** @param {Counts} counts */
export function endedOf(counts) {
  const { running, waiting, ...ended } = answersOf(counts);
  return Object.values(ended).reduce((sum, count) => sum + count, 0);
}

/** @param {Counts} counts @param {Kind} kind */
export function segments(counts, kind = "execution") {
  return Object.entries(sumBy(ROLES, counts, (state) => STATES[kind][state]?.role ?? "wait")).filter(([, count]) => count > 0);
}

/** @param {string[]} names @param {Counts} counts @param {(state: string) => string} nameOf */
function sumBy(names, counts, nameOf) {
  /** @type {Counts} */
  const sums = Object.fromEntries(names.map((name) => [name, 0]));
  for (const [state, count] of Object.entries(counts)) sums[nameOf(state)] += count;
  return sums;
}
