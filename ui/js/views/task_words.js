// What is said of one execution, and how long its steps took.
import { because, t } from "../i18n.js";
import { duration } from "../format.js";

const SECOND_MS = 1000;
const HAVE_RUN = ["succeeded", "failed", "timed_out", "interrupted"];

export const brief = (ms) => (ms < SECOND_MS ? t("time.milliseconds", { n: Math.round(ms) }) : duration(ms));

/** "queued 12 ms · delivered 40 ms · ran 3.1 s". */
export function delaysText(delays) {
  return Object.entries(delays).filter(([, ms]) => ms != null).map(([step, ms]) => t(`delay.${step}`, { time: brief(ms) })).join(" · ");
}

export function reasonText({ reason, late, leftovers }) {
  return [reason && because(reason), leftovers && t("task.leftovers", { n: leftovers }), late && t("task.late", { word: t(`state.execution.${late.outcome}`) })].filter(Boolean).join(" · ");
}

/** A state with the exit code that says more than its word. */
export function stateText({ state, exit_code: code }) {
  const word = t(`state.execution.${state}`);
  return code ? t("task.exit_code", { word, code }) : word;
}

/** Nothing is said of what it did not print where there could be none: the reason says more. */
export const emptyText = (state) => (HAVE_RUN.includes(state) ? t("task.no_output") : "");
