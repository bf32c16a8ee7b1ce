// What can be done to a task: cancelled, paused, resumed, tried again.
/** @import {Context, Execution, Parts, Preview, RetryHosts, TaskRow, TaskView} from "../app.js" */
import { Problem } from "../api.js";
import { ask, badge, reasonField, said } from "../components.js";
import { act, create, explain, permit, text } from "../dom.js";
import { t } from "../i18n.js";
import { link, taskPath } from "../router.js";
import { byAttention, isAtWork, isOpen } from "../states.js";
import { askCancel } from "./cancel.js";
import { confirmRun } from "./confirm.js";
import { quarantinedText, refusalText } from "./run_words.js";

/** @param {Parts["task"]} part @param {TaskView} view @param {Context} context */
export function actions(part, view, context) {
  const { api, stream, user } = context;
  const { url } = view;
  permit(part.cancel, user, "tasks.cancel");
  permit(part.retry, user, "tasks.run");

  // Pausing stops what may do harm, so whoever may cancel may pause. What was sent and is not answered may be sent again.
  /** @param {TaskRow} task */
  function draw(task) {
    const { state, counts } = task;
    const [isPaused, isFinished, isExpired] = [state === "paused", state === "finished", view.isExpired(task)];
    part.cancel.hidden = isFinished;
    part.cancel.disabled = task.cancel_requested_at !== null;
    text(part.cancel, t(task.cancel_requested_at ? "task.cancel_requested" : "task.cancel"));
    part.goOn.hidden = !task.waits_after_canary || isExpired;
    permit(part.goOn, user, "tasks.run");
    part.pause.hidden = isExpired || (!isPaused && !(state === "running" && (counts.queued || counts.sent)));
    permit(part.pause, user, isPaused ? "tasks.run" : "tasks.cancel");
    text(part.pause, t(task.awaits_approval ? "task.approve" : isPaused ? "task.resume" : "task.pause"));
    part.pause.title = `cpctl tasks ${isPaused ? "resume" : "pause"} ${task.task_id}`;
    part.goOn.title = `cpctl tasks resume ${task.task_id}`;
    part.retry.hidden = !isFinished || Object.keys(counts).every((each) => isOpen(each) || each === "succeeded");
    for (const button of [part.goOn, part.pause, part.retry]) button.disabled = false;
    explain(part.actions);
  }

  async function cancel() {
    const [task, atWork] = [view.current(), view.executions().filter(isAtWork)];
    const isCancelled = task && await askCancel(task, { running: atWork.length, basic: atWork.filter(({ hostname }) => view.basic().has(hostname)).length });
    if (isCancelled) act(part.cancel, () => api.post(`${url}/cancel`));
  }

  /** @param {HTMLButtonElement} button @param {"pause" | "resume"} way */
  async function turn(button, way) {
    await act(button, () => api.post(`${url}/${way}`));
    const task = view.current();
    if (task) draw(task);
  }

  async function again() {
    const task = view.current();
    const wanted = task && await chosenAgain(task, view.executions(), context);
    if (wanted) await act(part.retry, () => send(wanted));
    part.retry.disabled = false;
  }

  /** Where rules ask for a second person, what is sent asks for that. @param {Again} wanted @returns {Promise<unknown>} */
  async function send({ body, isApproval, ask: askAgain }) {
    try {
      if (isApproval) {
        await api.post(`${url}/retry/approval`, body);
        return context.navigate(link("/access", { tab: "approvals" }));
      }
      const { task } = await api.post(`${url}/retry`, body);
      stream.take("tasks", [task]);
      return context.navigate(taskPath(task.task_id));
    } catch (error) {
      if (isApproval || !(error instanceof Problem && error.code === "approval_required")) throw error;
      const wanted = await askAgain(true); // of a template the preview cannot know it
      return wanted && send(wanted);
    }
  }

  part.cancel.onclick = cancel;
  part.pause.onclick = () => turn(part.pause, view.current()?.state === "paused" ? "resume" : "pause");
  part.goOn.onclick = () => turn(part.goOn, "resume");
  part.retry.onclick = again; // it is off only while something is sent: the focus comes back to it from the dialogs
  return { draw };
}

/** Hosts by how they have ended; those that answered after all, `late`, by themselves.
 * @param {Execution[]} executions */
function endsOf(executions) {
  const ended = executions.filter((row) => !isOpen(row.state));
  const ends = Map.groupBy(ended, (row) => `${row.state}/${row.late?.outcome}`);
  return [...ends.values()]
    .map((rows) => ({ state: rows[0].state, late: rows[0].late?.outcome, hosts: rows.map((row) => row.hostname) }))
    .sort((a, b) => byAttention(a, b) || (a.late ? 1 : -1));
}

/** What is asked for, and `ask` to be asked about it once more.
 * @typedef {{body: RetryHosts, isApproval: boolean, ask(isApproval: boolean): Promise<?Again>}} Again
 * @param {TaskRow} task @param {Execution[]} executions @param {Context} context @returns {Promise<?Again>} */
async function chosenAgain(task, executions, { api }) {
  const taskId = crypto.randomUUID(); // for all that follows: a lost answer starts nothing twice
  const { command, user, timeout, argv, template } = task;
  const hostsOf = (/** @type {End[]} */ ends) => ends.flatMap((end) => end.hosts).sort();
  /** @type {?Preview} */
  let preview = null;
  const chosen = await choose(task, endsOf(executions), async (ends) => {
    const found = await api.post("/targets/preview", { target: { hosts: hostsOf(ends) }, user, timeout, ...(argv ? { argv } : { command }) });
    if (!found.allowed && template === null) throw new Error(refusalText(found)); // of a template the server knows better
    preview = found;
  });
  if (!chosen || !preview) return null;
  const found = /** @type {Preview} */ (preview);
  const states = /** @type {RetryHosts["states"]} */ (statesOf(chosen.ends));

  /** @param {boolean} isApproval */
  async function askFor(isApproval) {
    const more = [isApproval ? t("run.ask_what") : "", quarantinedText(found)].filter(Boolean);
    const said = await confirmRun(found, { command, user, reason: chosen?.reason }, more, undefined, isApproval);
    if (!said) return null;
    const body = { states, hosts: hostsOf(chosen?.ends ?? []), task_id: taskId, preview_id: found.preview_id, ...(said.reason && { reason: said.reason }) };
    return { body, isApproval, ask: askFor };
  }
  return askFor(found.approval_required);
}

/** @typedef {{ends?: Record<string, boolean>, reason?: string}} Answers */
/** @typedef {ReturnType<typeof endsOf>[number]} End */
/** @param {End[]} ends */
const statesOf = (ends) => [...new Set(ends.map((end) => end.state))];

/** Stays until what is to be done with the chosen `ends` has worked.
 * @param {TaskRow} task @param {End[]} ends @param {(ends: End[]) => Promise<unknown>} submit */
async function choose(task, ends, submit) {
  const fields = ends.map(({ state, late, hosts }, place) => {
    const words = `${t(`state.execution.${state}`)}: ${hosts.length}`;
    const label = create("span");
    badge(label, "execution", state, late ? `${words} · ${t("task.late", { word: t(`state.execution.${late}`) })}` : words);
    return { name: `ends.${place}`, type: "checkbox", label, checked: (late ?? state) !== "succeeded" };
  });
  const line = said("");
  const chosen = (/** @type {Answers} */ answers) => ends.filter((_, place) => answers.ends?.[place]);
  const check = (/** @type {HTMLButtonElement} */ yes, /** @type {Answers} */ answers) => {
    const n = chosen(answers).reduce((sum, { hosts }) => sum + hosts.length, 0);
    yes.disabled = n === 0;
    text(yes, n ? t("run.submit", { n }) : t("run.submit_none"));
    line.textContent = `cpctl tasks retry ${task.task_id} --state ${statesOf(chosen(answers)).join(",")}`;
  };
  const answer = await ask({ words: "task.retry", title: t("task.retry_title"), body: [t("task.retry_what"), line], fields: [...fields, reasonField(false)], yes: "", check, submit: (/** @type {Answers} */ answers) => submit(chosen(answers)) });
  return answer && { ...answer, ends: chosen(answer) };
}
