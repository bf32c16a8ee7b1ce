// How long each step of a task took, and how long the rest of it may take.
/** @import {Delays, Execution} from "./app.js" */

const LEAST_SHARE = 0.1; // of its hosts have ended before it is guessed how long the others take

/** @type {WeakMap<Execution, Delays>} */
const known = new WeakMap(); // by execution, whose row is another one once something has changed

/** In ms, null where it is not known. An agent says that it has accepted only what it does not finish at once.
 * @param {Execution} execution */
export function delaysOf(execution) {
  let delays = known.get(execution);
  if (!delays) known.set(execution, (delays = measured(execution)));
  return delays;
}

/** @param {Execution} execution @returns {Delays} */
function measured({ queued_at: queued, sent_at: sent, accepted_at: accepted, finished_at: finished, result_seq: result }) {
  const ended = result === null ? null : finished;
  return {
    queued: between(queued, sent),
    delivered: between(sent, accepted),
    ran: between(accepted, ended),
    answered: accepted ? null : between(sent, ended),
  };
}

/** @param {?string} from @param {?string} to */
function between(from, to) {
  return from && to ? Math.max(0, Date.parse(to) - Date.parse(from)) : null;
}

/** Of all hosts together the one in the middle, for each step that any of them took. @param {Execution[]} executions */
export function middleDelays(executions) {
  /** @type {Record<string, number[]>} */
  const found = {};
  for (const execution of executions) {
    for (const [step, ms] of Object.entries(delaysOf(execution))) if (ms !== null) (found[step] ??= []).push(ms);
  }
  return Object.fromEntries(Object.entries(found).map(([step, values]) => [step, middle(values)]));
}

/** @param {number[]} values */
const middle = (values) => values.sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)];

/** Hosts a second, and ms until the last; null while it is too early to say, and when there is nothing to wait for.
 * @param {number} done @param {number} targets @param {number} acceptedMs @param {number} nowMs */
export function paceOf(done, targets, acceptedMs, nowMs) {
  const elapsed = nowMs - acceptedMs;
  if (done >= targets || done === 0 || done < targets * LEAST_SHARE || elapsed <= 0) return null;
  return { rate: (done / elapsed) * 1000, leftMs: ((targets - done) / done) * elapsed };
}
