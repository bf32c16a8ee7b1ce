// One task: what each host answers, as it comes, and what happened step by step.
import { exact, json, printed, visible } from "../ansi.js";
import { EXPIRY_S } from "../commandline.js";
import { ask, badge, bar, confirmRun, reasonField, rowsOf, timeNode } from "../components.js";
import { act, announce, attempt, create, every, explain, facts, permit, text } from "../dom.js";
import { between, bytes, duration } from "../format.js";
import { because, language, t } from "../i18n.js";
import { link, taskPath } from "../router.js";
import { by, byAttention, endedOf, isAtWork, isOpen, taskState } from "../states.js";
import { eventTable } from "./audit.js";
import { liveCards, outputCards } from "./outputs.js";
import { answersText, targetText } from "./tasks.js";

const LESS_THAN_A_LINE_PX = 12;
const UNSHOWN = ["argv", "env", "secrets", "cwd", "stdin"]; // on the Run page

export function mount(part, { task_id: taskId }, context) {
  const { api, store, stream, signal, user } = context;
  context.title(taskId);
  text(part.command, taskId);
  const url = taskPath(taskId);
  const current = () => store.one("tasks", taskId);
  const rowOf = (hostname) => store.one("executions", `${taskId}/${hostname}`) ?? {};
  const live = liveCards(part, taskId, context, () => outputs.draw());
  const outputs = outputCards(part.outputs, url, context, { rowOf, reasonText, printedBy: live.printedBy });
  const hosts = rowsOf(part.executions, "hostname", {
    state: drawState,
    took: (row) => between(current().accepted_at, row.finished_at),
    first_line: (row) => reasonText(row) || printed(row.first_line ?? ""),
  });
  const may = (permission) => user.permissions.includes(permission);
  permit(part.cancel, user, "tasks.cancel");
  permit(part.retry, user, "tasks.run");
  let shown = "";
  let drawn = "";
  let retries = []; // the stream's rows do not have them
  let approved = null;
  let asked = null; // what the event of its acceptance has of it, and no row

  const executions = () => store.all("executions").filter((row) => row.task_id === taskId);

  function draw() {
    const task = current();
    const rows = executions();
    if (!task || !hasChanged(task, rows)) return;
    context.title(task.command);
    text(part.command, exact(task.command));
    badge(part.state, "task", taskState(task));
    part.about.replaceChildren(`${targetText(task.target)} · ${task.actor} · `, timeNode(task.accepted_at));
    part.again.hidden = !asked || UNSHOWN.some((name) => asked[name]);
    part.again.href = link("/run", againOf(task, asked));
    drawButtons(task);
    bar(part.bar, task.counts);
    const sum = Object.values(task.counts).reduce((total, count) => total + count, 0);
    const progress = t("task.progress", { done: endedOf(task.counts), n: task.targets });
    const waits = isExpired(task) ? t("task.expired") : task.awaits_approval ? t("task.awaits_approval") : task.waits_after_canary && goesOnText(task, rows);
    const answers = answersText(task.counts);
    const took = between(task.accepted_at, task.finished_at);
    text(part.summary, [progress, answers, waits, took].filter(Boolean).join(" · ") + (sum === task.targets ? "" : ` ${t("task.mismatch")}`));
    if (task.state === "finished" && shown && shown !== task.state) announce(`${t(`state.task.${task.outcome}`)}: ${answers}`);
    shown = task.state;
    drawFacts(task);
    hosts.draw(rows.toSorted((a, b) => byAttention(a, b) || by("hostname")(a, b)));
    drawMore();
    live.changed(rows.filter((row) => !row.finished_at));
    outputs.changed();
  }

  function drawMore() {
    const isWhole = part.command.classList.contains("whole");
    part.more.hidden = !isWhole && part.command.scrollHeight - part.command.clientHeight < LESS_THAN_A_LINE_PX;
    part.more.ariaExpanded = String(isWhole);
    text(part.more, t(isWhole ? "task.command_less" : "task.command_whole"));
  }

  // Pausing stops what may do harm, so whoever may cancel may pause. What was sent and is not answered may be sent again.
  function drawButtons(task) {
    const { state, counts } = task;
    const [isPaused, isFinished] = [state === "paused", state === "finished"];
    part.cancel.hidden = isFinished;
    part.cancel.disabled = task.cancel_requested_at !== null;
    text(part.cancel, t(task.cancel_requested_at ? "task.cancel_requested" : "task.cancel"));
    part.goOn.hidden = !task.waits_after_canary || isExpired(task);
    permit(part.goOn, user, "tasks.run");
    part.pause.hidden = isExpired(task) || (!isPaused && !(state === "running" && (counts.queued || counts.sent)));
    permit(part.pause, user, isPaused ? "tasks.run" : "tasks.cancel");
    text(part.pause, t(task.awaits_approval ? "task.approve" : isPaused ? "task.resume" : "task.pause"));
    part.retry.hidden = !isFinished || Object.keys(counts).every((each) => isOpen(each) || each === "succeeded");
    for (const button of [part.goOn, part.pause, part.retry]) button.disabled = false;
    explain(part.actions);
  }

  const isExpired = (task) => task.state !== "finished" && Date.parse(task.expires_at) <= stream.now();

  /** Other tasks change the same tables. */
  function hasChanged(task, rows) {
    const now = `${isExpired(task)}/${task.pos}/${rows.length}/${rows.reduce((most, row) => Math.max(most, row.pos), 0)}`;
    return now !== drawn && (drawn = now);
  }

  function drawFacts(task) {
    const isFinished = task.state === "finished";
    facts(part.facts, "task", {
      id: create("code", task.task_id),
      user: task.user,
      timeout: duration(task.timeout * 1000),
      template: asked?.template,
      parameters: json(asked?.parameters),
      argv: json(task.argv),
      env: json(asked?.env),
      cwd: asked?.cwd,
      secrets: asked?.secrets?.join(", "),
      stdin: asked?.stdin && bytes(new TextEncoder().encode(asked.stdin).length),
      again: asked && part.again.hidden ? t("task.again_not") : null,
      reason: task.reason,
      approved_by: approved?.actor,
      when_offline: t(`run.${task.when_offline}`),
      expires: isFinished ? null : timeNode(task.expires_at),
      answers_until: isFinished ? null : timeNode(task.answers_until),
      rollout: rolloutText(task),
      stopped: because(task.rollout_stopped),
      retry_of: task.retry_of && links([task.retry_of]),
      retries: retries.length ? links(retries) : null,
      position: task.seq,
    });
  }

  async function cancel() {
    const running = executions().filter(isAtWork).length;
    const given = { done: endedOf(current().counts), running };
    const answer = await ask({ words: "task.cancel", given, title: t("task.cancel_title"), no: t("task.keep") });
    if (answer) act(part.cancel, () => api.post(`${url}/cancel`));
  }

  async function turn(button, way) {
    await act(button, () => api.post(`${url}/${way}`));
    drawButtons(current());
  }

  async function again() {
    const made = await retry(current(), executions(), context);
    part.retry.disabled = false;
    if (!made) return;
    stream.take("tasks", [made]);
    context.navigate(taskPath(made.task_id));
  }

  const load = () => attempt(part.page, read);

  async function read() {
    const task = await api.get(url);
    if (may("events.read") && !asked) {
      const { request, approval_id: approval } = (await api.get(`/events/${task.seq}`)).body;
      if (approval) [approved] = (await api.get("/events", { task_id: taskId, kind: "approval.approved" })).items;
      asked = request;
    }
    const readRows = (cursor) => api.get(`${url}/executions`, { limit: 1000, cursor });
    let page = await readRows();
    retries = task.retries;
    drawn = ""; // they change without a row
    stream.take("tasks", [task]);
    stream.take("executions", page.items);
    draw();
    stream.follow([`task:${taskId}`], page.as_of, signal, load);
    if (may("tasks.output")) live.start();
    while (page.next_cursor) {
      page = await readRows(page.next_cursor);
      stream.take("executions", page.items);
    }
  }

  part.more.onclick = () => {
    part.command.classList.toggle("whole");
    drawMore();
  };
  const resizes = new ResizeObserver(drawMore);
  resizes.observe(part.command);
  signal.addEventListener("abort", () => resizes.disconnect());
  every(1000, draw, signal); // it expires without a change of its row
  part.cancel.onclick = cancel;
  part.pause.onclick = () => turn(part.pause, current().state === "paused" ? "resume" : "pause");
  part.goOn.onclick = () => turn(part.goOn, "resume");
  part.retry.onclick = () => act(part.retry, again);
  store.subscribe(["tasks", "executions"], draw, signal);
  draw();
  load();
  if (may("events.read")) eventTable(part.events, { task_id: taskId }, context);
  else part.events.closest("section").hidden = true;
}

function drawState(row, cell) {
  badge(cell, "execution", row.state);
  cell.title = visible(because(row.reason));
}

function rolloutText({ rollout, released, targets }) {
  if (!rollout) return null;
  const { max_concurrency: atOnce, max_errors: errors, canary, wait } = rollout;
  const first = canary && t("task.rollout_canary", { canary: [canary].flat().join(", ") });
  const then = wait === "approve" ? t("run.wait_approve") : wait && t("run.wait_for", { time: duration(wait * 1000) });
  return [t("task.rollout_released", { released, n: targets }), first, then, t("task.rollout_at_once", { n: atOnce }), t("task.rollout_errors", { errors })].filter(Boolean).join(" · ");
}

function links(taskIds) {
  const place = create("span", "", { className: "row" });
  place.append(...taskIds.map((taskId) => create("a", taskId, { className: "mono", href: taskPath(taskId) })));
  return place;
}

/** When the others get it: only rows of its canary have ended. */
function goesOnText({ rollout }, rows) {
  const ends = Math.max(...rows.map((row) => Date.parse(row.finished_at) || 0));
  return t("task.waits_after_canary", { time: new Date(ends + rollout.wait * 1000).toLocaleTimeString(language) });
}

function againOf({ target, rollout, command, user, timeout, when_offline, reason }, asked) {
  const isUsual = asked?.expires_in === EXPIRY_S[rollout ? "rollout" : "once"];
  const where = target.all ? { all: 1 } : target.hosts ? { hosts: target.hosts.join(",") } : target;
  const how = Object.entries(rollout ?? {}).map(([name, value]) => [name, [value].flat().join(",")]);
  return { ...where, ...Object.fromEntries(how), command, user, timeout, when_offline, reason, expires_in: isUsual ? null : asked?.expires_in };
}

function reasonText({ reason, late, leftovers }) {
  return [because(reason), leftovers && t("task.leftovers", { n: leftovers }), late && t("task.late", { word: t(`state.execution.${late.outcome}`) })].filter(Boolean).join(" · ");
}

/** Hosts by how they have ended; those that answered after all, `late`, by themselves. */
function endsOf(executions) {
  const ended = executions.filter((row) => !isOpen(row.state));
  const ends = Map.groupBy(ended, (row) => `${row.state}/${row.late?.outcome}`);
  return [...ends.values()]
    .map((rows) => ({ state: rows[0].state, late: rows[0].late?.outcome, hosts: rows.map((row) => row.hostname) }))
    .sort((a, b) => byAttention(a, b) || (a.late ? 1 : -1));
}

async function retry(task, executions, { api }) {
  const taskId = crypto.randomUUID(); // for all that follows: a lost answer starts nothing twice
  const chosen = await choose(endsOf(executions));
  if (!chosen) return null;
  const hosts = chosen.ends.flatMap((end) => end.hosts).sort();
  const states = [...new Set(chosen.ends.map((end) => end.state))];
  const { command, user } = task;
  const preview = await api.post("/targets/preview", { target: { hosts }, user, command });
  const body = await confirmRun(preview, { command, user, reason: chosen.reason });
  if (!body) return null;
  const asked = { states, hosts, task_id: taskId, preview_id: preview.preview_id, ...(body.reason && { reason: body.reason }) };
  return (await api.post(`${taskPath(task.task_id)}/retry`, asked)).task;
}

async function choose(ends) {
  const fields = ends.map(({ state, late, hosts }, place) => {
    const words = `${t(`state.execution.${state}`)}: ${hosts.length}`;
    const label = create("span");
    badge(label, "execution", state, late ? `${words} · ${t("task.late", { word: t(`state.execution.${late}`) })}` : words);
    return { name: `ends.${place}`, type: "checkbox", label, checked: (late ?? state) !== "succeeded" };
  });
  const chosen = (said) => ends.filter((_, place) => said.ends?.[place]);
  const check = (yes, said) => {
    const n = chosen(said).reduce((sum, { hosts }) => sum + hosts.length, 0);
    yes.disabled = n === 0;
    text(yes, n ? t("run.submit", { n }) : t("run.submit_none"));
  };
  const answer = await ask({ words: "task.retry", title: t("task.retry_title"), fields: [...fields, reasonField(false)], yes: "", check });
  return answer && { ...answer, ends: chosen(answer) };
}
