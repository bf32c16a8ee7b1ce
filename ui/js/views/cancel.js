// To cancel a task: asked in the same words wherever it is shown.
/** @import {TaskRow} from "../app.js" */
import { ask, said } from "../components.js";
import { t } from "../i18n.js";
import { endedOf, isAtWork } from "../states.js";

/** What cancelling cannot undo any more, and whom it does not reach. `running` of its hosts are at work, `basic` of those hear of nothing.
 * @param {TaskRow} task @param {{running: number, basic: number}} atWork */
export async function askCancel({ task_id: taskId, command, counts }, { running, basic }) {
  const numbers = { done: endedOf(counts), running: running - basic, basic, waiting: counts.queued ?? 0 };
  const lines = Object.entries(numbers).filter(([, n]) => n).map(([what, n]) => t(`task.cancel_${what}`, { n }));
  const body = [said(command), ...lines, t("task.cancel_what"), said(`cpctl tasks cancel ${taskId}`)];
  return (await ask({ words: "task.cancel", body, title: t("task.cancel_title"), no: t("task.keep") })) !== null;
}

/** @param {TaskRow["counts"]} counts */
export const atWorkOf = (counts) => Object.entries(counts).reduce((sum, [state, count]) => sum + (isAtWork({ state }) ? count : 0), 0);
