// `states.json` has the roles in the order of a bar, executions by how much somebody has to look.
import STATES from "../states.json" with { type: "json" };

export const { roles: ROLES, answers: ANSWERS, execution: EXECUTION, host: HOST, shapes: SHAPES } = STATES;

export const by = (name) => (one, other) => (one[name] < other[name] ? -1 : 1);
export const attention = (state) => Object.keys(EXECUTION).indexOf(state);
export const byAttention = (one, other) => attention(one.state) - attention(other.state);

const answerOf = (state) => EXECUTION[state]?.answer ?? "waiting";
export const isOpen = (state) => ["running", "waiting"].includes(answerOf(state));
export const isAtWork = ({ state }) => isOpen(state) && state !== "queued";

/** Who gets the few places for live output: who is at work, and who is `watched` already. */
export function toWatch(executions, watched, most) {
  const rank = (row) => (isAtWork(row) ? 0 : 2) + (watched.has(row.hostname) ? 0 : 1);
  const sorted = executions.toSorted((a, b) => rank(a) - rank(b) || by("hostname")(a, b));
  return sorted.slice(0, most).map((row) => row.hostname);
}

/** A state of a newer server is shown as it is called. */
export function stateOf(kind, state) {
  return { ...(STATES[kind][state] ?? { role: "wait", shape: "dots" }), word: `state.${kind}.${state}` };
}

export const taskState = (task) => (task.state === "finished" ? task.outcome : task.state);

export const answersOf = (counts) => sumBy(ANSWERS, counts, answerOf);

export function endedOf(counts) {
  const { running, waiting, ...ended } = answersOf(counts);
  return Object.values(ended).reduce((sum, count) => sum + count, 0);
}

export function segments(counts, kind = "execution") {
  return Object.entries(sumBy(ROLES, counts, (state) => STATES[kind][state]?.role ?? "wait")).filter(([, count]) => count > 0);
}

function sumBy(names, counts, nameOf) {
  const sums = Object.fromEntries(names.map((name) => [name, 0]));
  for (const [state, count] of Object.entries(counts)) sums[nameOf(state)] += count;
  return sums;
}
