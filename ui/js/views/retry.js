// Try once more: on the hosts that ended in chosen states, as a new task.
import { badge } from "../components.js";
import { confirmRun } from "../confirm.js";
import { make } from "../dom.js";
import { t } from "../i18n.js";
import { EXECUTION } from "../states.js";

const isEnd = (state) => !["running", "waiting"].includes(EXECUTION[state]?.answer ?? "waiting");

/** The states in which hosts of a task have ended, those that did not work first. */
export function endsOf(counts) {
  const ends = Object.keys(EXECUTION).filter((state) => isEnd(state) && counts[state]);
  return [...ends.filter((state) => state !== "succeeded"), ...ends.filter((state) => state === "succeeded")];
}

/** Ask, preview, confirm and send; the new task, or null where the user would rather not. */
export async function retry(task, executions, { api, signal }) {
  const taskId = crypto.randomUUID(); // one for all that follows, so that a lost answer starts nothing twice
  const chosen = await choose(task.counts);
  if (!chosen) return null;
  const hosts = executions.filter((row) => chosen.states.includes(row.state)).map((row) => row.hostname).sort();
  const { command, user } = task;
  const preview = await api.post("/targets/preview", { target: { hosts }, user, command }, { signal });
  const body = await confirmRun(preview, { command, user, reason: chosen.reason });
  if (!body) return null;
  const asked = { states: chosen.states, task_id: taskId, preview_id: preview.preview_id, ...(body.reason && { reason: body.reason }) };
  return (await api.post(`/tasks/${encodeURIComponent(task.task_id)}/retry`, asked, { signal })).task;
}

function choose(counts) {
  const part = make("retry");
  const boxes = endsOf(counts).map((state) => {
    const { root, box, state: word } = make("retry-state");
    box.value = state;
    box.checked = state !== "succeeded";
    badge(word, "execution", state, `${t(`state.execution.${state}`)}: ${counts[state]}`);
    part.states.append(root);
    return box;
  });
  const chosen = () => boxes.filter((box) => box.checked).map((box) => box.value);
  const check = () => {
    const n = chosen().reduce((sum, state) => sum + counts[state], 0);
    part.yes.disabled = n === 0;
    part.yes.textContent = n ? t("run.submit", { n }) : t("run.submit_none");
  };
  part.root.addEventListener("input", check);
  check();
  document.body.append(part.root);
  part.root.showModal();
  return new Promise((resolve) => {
    part.root.addEventListener("close", () => {
      part.root.remove();
      resolve(part.root.returnValue === "yes" ? { states: chosen(), reason: part.reason.value.trim() } : null);
    });
  });
}
