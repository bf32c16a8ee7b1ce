// One task: every host's answer as it comes, equal outputs together, and what happened step by step.
import { visible } from "../ansi.js";
import { badge, bar, timeNode } from "../components.js";
import { announce, attempt, confirmDialog, facts, keyedList, make, permit, refs, text } from "../dom.js";
import { between, duration } from "../format.js";
import { because, told } from "../i18n.js";
import { link } from "../router.js";
import { EXECUTION, endedOf, taskState } from "../states.js";
import { eventTable } from "./audit.js";
import { liveCards, outputCards } from "./outputs.js";
import { answersText, targetText } from "./task-table.js";

const ORDER = Object.keys(EXECUTION);

export function mountTask(root, { task_id: taskId }, context) {
  const { api, store, stream, signal, t, title, user } = context;
  const part = make("task");
  root.replaceChildren(part.root);
  text(part.command, taskId);
  const url = `/tasks/${encodeURIComponent(taskId)}`;
  const reasonOf = (hostname) => store.one("executions", `${taskId}/${hostname}`)?.reason;
  const outputs = outputCards(part.outputs, url, context, reasonOf);
  const live = liveCards(part.live, taskId, context);
  let shown = "";
  let drawn = "";
  let isFollowing = false;

  const executions = () => store.all("executions").filter((row) => row.task_id === taskId);
  const drawActions = taskActions(part, url, executions, context);

  function draw() {
    const task = store.one("tasks", taskId);
    const rows = executions();
    if (!task || !hasChanged(task, rows)) return;
    title(task.command);
    text(part.command, task.command);
    badge(part.state, "task", taskState(task));
    part.about.replaceChildren(`${targetText(task.target, t)} · ${task.actor} · `, timeNode(task.accepted_at));
    part.again.href = link("/run", { ...againOf(task.target), command: task.command, user: task.user, timeout: task.timeout });
    drawActions(task);
    bar(part.bar, task.counts);
    const sum = Object.values(task.counts).reduce((total, count) => total + count, 0);
    const progress = t("task.progress", { done: endedOf(task.counts), n: task.targets });
    const took = between(task.accepted_at, task.finished_at);
    text(part.summary, [progress, answersText(task.counts, t), took].filter(Boolean).join(" · ") + (sum === task.targets ? "" : ` ${t("task.mismatch")}`));
    if (task.state === "finished" && shown && shown !== task.state) announce(`${t(`state.task.${task.outcome}`)}: ${answersText(task.counts, t)}`);
    shown = task.state;
    drawFacts(task);
    drawExecutions(task, rows);
    live.ended(rows.filter((row) => row.finished_at).map((row) => row.hostname));
    outputs.changed();
  }

  /** Other tasks change the same tables: what is not ours draws nothing and asks for nothing. */
  function hasChanged(task, rows) {
    const now = `${task.pos}/${rows.length}/${rows.reduce((most, row) => Math.max(most, row.pos), 0)}`;
    const isNew = now !== drawn;
    drawn = now;
    return isNew;
  }

  function drawFacts(task) {
    const id = document.createElement("code");
    id.textContent = task.task_id;
    facts(part.facts, [
      [t("task.id"), id],
      [t("run.user"), task.user],
      [t("task.timeout"), duration(task.timeout * 1000)],
      [t("run.reason"), task.reason],
      [t("run.when_offline"), t(`run.${task.when_offline}`)],
      [t("task.expires"), task.state === "finished" ? null : timeNode(task.expires_at)],
      [t("task.rollout"), task.rollout && rolloutText(task)],
      [t("task.retry_of"), task.retry_of && taskLink(task.retry_of)],
      [t("task.position"), String(task.seq)],
    ]);
  }

  /** How far it has come to its hosts, and what keeps it. */
  function rolloutText({ rollout, released, targets, rollout_stopped: stopped }) {
    const far = t("task.rollout_far", { released, n: targets, most: rollout.max_concurrency, errors: rollout.max_errors });
    return stopped ? `${far} · ${because(stopped)}` : far;
  }

  function drawExecutions(task, found) {
    const rows = found.sort((a, b) => ORDER.indexOf(b.state) - ORDER.indexOf(a.state) || (a.hostname < b.hostname ? -1 : 1));
    keyedList(part.executions, rows, (row) => row.hostname, () => make("execution-row").root, (element, row) => {
      const cells = refs(element);
      badge(cells.state, "execution", row.state);
      cells.state.title = visible(because(row.reason ?? ""));
      cells.host.href = `/hosts/${encodeURIComponent(row.hostname)}`;
      text(cells.host, row.hostname);
      text(cells.exit, row.exit_code === null ? "" : String(row.exit_code));
      text(cells.took, between(task.accepted_at, row.finished_at));
      text(cells.line, row.reason ? because(row.reason) : row.first_line);
    });
  }

  const load = () => attempt(part.page, read);

  async function read() {
    const task = await api.get(url, { signal });
    let page = await api.get(`${url}/executions`, { query: { limit: 1000 }, signal });
    stream.take("tasks", [task]);
    stream.take("executions", page.items);
    draw();
    if (!isFollowing) {
      stream.follow([`task:${taskId}`], page.as_of, signal, load);
      if (user.permissions.includes("tasks.output")) live.start(page.items.filter((row) => !row.finished_at).map((row) => row.hostname));
    }
    isFollowing = true;
    while (page.next_cursor) {
      page = await api.get(`${url}/executions`, { query: { limit: 1000, cursor: page.next_cursor }, signal });
      stream.take("executions", page.items);
    }
  }

  store.subscribe(["tasks", "executions"], draw, signal);
  draw();
  load();
  if (user.permissions.includes("events.read")) eventTable(part.events, { task_id: taskId }, context);
  else part.events.closest("section").hidden = true;
}

/** What can still be done about a task: pause, resume, cancel, and once it has ended, try again where it did not work.
 * Wires the buttons of its page; the answer draws them for the task as it is. */
function taskActions(part, url, executions, context) {
  const { api, stream, signal, t, toast, user, navigate } = context;
  const mayCancel = permit(part.cancel, user, "tasks.cancel");
  const mayRun = permit(part.turn, user, "tasks.run");
  let task = null;

  const failed = () => executions().filter((row) => row.finished_at !== null && row.state !== "succeeded");

  function draw(now) {
    task = now;
    const isGoing = task.state === "running" || task.state === "paused";
    part.turn.hidden = !isGoing;
    part.turn.disabled = !mayRun || !mayCancel;
    text(part.turn, task.state === "paused" ? t("task.resume") : t("task.pause"));
    part.retry.hidden = task.state !== "finished" || task.outcome === "succeeded" || !mayRun;
    part.cancel.hidden = task.state === "finished";
    part.cancel.disabled = task.cancel_requested_at !== null || !mayCancel;
    text(part.cancel, task.cancel_requested_at ? t("task.cancel_requested") : t("task.cancel"));
  }

  /** Ask for something once: the button comes back when the task has changed, or when it was refused. */
  async function ask(button, path, body = {}) {
    button.disabled = true;
    try {
      return await api.post(`${url}/${path}`, body, { signal });
    } catch (error) {
      toast(told(error), "bad");
      draw(task);
      return null;
    }
  }

  async function cancel() {
    const { counts } = task;
    const running = (counts.accepted ?? 0) + (counts.running ?? 0) + (counts.sent ?? 0);
    const answer = await confirmDialog({
      title: t("task.cancel_title"),
      body: t("task.cancel_what", { done: endedOf(counts), running }),
      yes: t("task.cancel"),
      no: t("task.keep"),
    });
    if (answer) await ask(part.cancel, "cancel");
  }

  async function retry() {
    const rows = failed();
    const hosts = rows.map((row) => row.hostname);
    const states = [...new Set(rows.map((row) => row.state))];
    part.retry.disabled = true;
    try {
      const preview = await api.post("/targets/preview", { target: { hosts }, command: task.command, user: task.user }, { signal });
      const answer = await confirmDialog({
        title: t("task.retry_title", { n: hosts.length }),
        body: t("task.retry_what", { states: states.map((state) => t(`state.execution.${state}`)).join(", ") }),
        yes: t("task.retry"),
        expect: preview.guard.level >= 3 ? hosts.length : null,
        needsReason: preview.guard.level >= 3,
      });
      if (!answer) return;
      const body = { states, hosts, preview_id: preview.preview_id, ...(answer.reason && { reason: answer.reason }) };
      const made = await api.post(`${url}/retry`, body, { signal });
      stream.take("tasks", [made.task]);
      navigate(`/tasks/${encodeURIComponent(made.task.task_id)}`);
    } catch (error) {
      if (error.name !== "AbortError") toast(told(error), "bad");
    } finally {
      part.retry.disabled = false;
    }
  }

  part.cancel.addEventListener("click", cancel);
  part.turn.addEventListener("click", () => ask(part.turn, task.state === "paused" ? "resume" : "pause"));
  part.retry.addEventListener("click", retry);
  return draw;
}

function taskLink(taskId) {
  const anchor = document.createElement("a");
  anchor.href = `/tasks/${encodeURIComponent(taskId)}`;
  anchor.className = "mono";
  anchor.textContent = taskId;
  return anchor;
}

function againOf(target) {
  if (target.all) return { all: 1 };
  return target.hosts ? { hosts: target.hosts.join(",") } : target;
}

