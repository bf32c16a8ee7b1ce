// What is said of one execution, and how long its steps took.
/** @import {Execution} from "../app.js" */
import { because, t } from "../i18n.js";
import { duration } from "../format.js";

const SECOND_MS = 1000;
const HAVE_RUN = ["succeeded", "failed", "timed_out", "interrupted"];

/** @param {number} ms */
export const brief = (ms) => (ms < SECOND_MS ? t("time.milliseconds", { n: Math.round(ms) }) : duration(ms));

/** "queued 12 ms · delivered 40 ms · ran 3.1 s". @param {Record<string, number | null>} delays */
export function delaysText(delays) {
  return Object.entries(delays).flatMap(([step, ms]) => (ms == null ? [] : t(`delay.${step}`, { time: brief(ms) }))).join(" · ");
}

/** @param {Execution} execution */
export function reasonText({ reason, late, leftovers }) {
  return [reason && because(reason), leftovers && t("task.leftovers", { n: leftovers }), late && t("task.late", { word: t(`state.execution.${late.outcome}`) })].filter(Boolean).join(" · ");
}

/** A state with the exit code that says more than its word.
 * @param {Pick<Execution, "state" | "exit_code">} execution */
export function stateText({ state, exit_code: code }) {
  const word = t(`state.execution.${state}`);
  return code ? t("task.exit_code", { word, code }) : word;
}

/** Nothing is said of what it did not print where there could be none: the reason says more. @param {string} state */
export const emptyText = (state) => (HAVE_RUN.includes(state) ? t("task.no_output") : "");
