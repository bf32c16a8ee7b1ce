// One task: every host's answer as it comes, equal outputs together, and what happened step by step.
import { visible } from "../ansi.js";
import { badge, bar, confirmRun, timeNode } from "../components.js";
import { announce, ask, attempt, confirmDialog, create, explain, facts, keyedList, make, permit, refs, text } from "../dom.js";
import { between, bytes, duration } from "../format.js";
import { because, language, t, told } from "../i18n.js";
import { link } from "../router.js";
import { attention, endedOf, isOpen, taskState } from "../states.js";
import { eventTable } from "./audit.js";
import { liveCards, outputCards } from "./outputs.js";
import { answersText, targetText } from "./task-table.js";

const LESS_THAN_A_LINE_PX = 12; // by which letters may reach over their line
const UNSHOWN = ["argv", "env", "cwd", "stdin"]; // the Run page has no fields for them: there it would be another command
const EXPIRY_S = { once: 600, rollout: 86_400 }; // the server's own, where nothing else was asked for

export function mountTask(root, { task_id: taskId }, context) {
  const { api, navigate, store, stream, signal, t, title, toast, user } = context;
  const part = make("task");
  root.replaceChildren(part.root);
  text(part.command, taskId);
  const url = `/tasks/${encodeURIComponent(taskId)}`;
  const rowOf = (hostname) => store.one("executions", `${taskId}/${hostname}`) ?? {};
  const live = liveCards(part, taskId, context, () => outputs.draw());
  const outputs = outputCards(part.outputs, url, context, { rowOf, reasonText, printedBy: live.printedBy });
  permit(part.cancel, user, "tasks.cancel");
  permit(part.retry, user, "tasks.run");
  let shown = "";
  let drawn = "";
  let isFollowing = false;
  let retries = []; // the stream's rows do not have them
  let asked = null; // what the event of its acceptance has of it, and no row

  const executions = () => store.all("executions").filter((row) => row.task_id === taskId);

  function draw() {
    const task = store.one("tasks", taskId);
    const rows = executions();
    if (!task || !hasChanged(task, rows)) return;
    title(task.command);
    text(part.command, task.command);
    badge(part.state, "task", taskState(task));
    part.about.replaceChildren(`${targetText(task.target, t)} · ${task.actor} · `, timeNode(task.accepted_at));
    part.again.hidden = !asked || UNSHOWN.some((name) => asked[name]);
    part.again.href = link("/run", againOf(task, asked));
    part.cancel.hidden = task.state === "finished";
    part.cancel.disabled = task.cancel_requested_at !== null;
    text(part.cancel, task.cancel_requested_at ? t("task.cancel_requested") : t("task.cancel"));
    drawPause(task);
    part.retry.hidden = task.state !== "finished" && Object.keys(task.counts).every((state) => isOpen(state) || state === "succeeded");
    explain(part.actions);
    bar(part.bar, task.counts);
    const sum = Object.values(task.counts).reduce((total, count) => total + count, 0);
    const progress = t("task.progress", { done: endedOf(task.counts), n: task.targets });
    const waits = isExpired(task) ? t("task.expired") : task.awaits_approval ? t("task.awaits_approval") : task.waits_after_canary && goesOnText(task, rows);
    const took = between(task.accepted_at, task.finished_at);
    text(part.summary, [progress, answersText(task.counts, t), waits, took].filter(Boolean).join(" · ") + (sum === task.targets ? "" : ` ${t("task.mismatch")}`));
    if (task.state === "finished" && shown && shown !== task.state) announce(`${t(`state.task.${task.outcome}`)}: ${answersText(task.counts, t)}`);
    shown = task.state;
    drawFacts(task);
    drawExecutions(task, rows);
    drawMore();
    live.changed(rows.filter((row) => !row.finished_at));
    outputs.changed();
  }

  /** A command that is too long shows its start, and the whole where somebody asks for it. */
  function drawMore() {
    const isWhole = part.command.classList.contains("whole");
    part.more.hidden = !isWhole && part.command.scrollHeight - part.command.clientHeight < LESS_THAN_A_LINE_PX;
    part.more.setAttribute("aria-expanded", String(isWhole));
    text(part.more, t(isWhole ? "task.command_less" : "task.command_whole"));
  }

  /**
   * Pausing stops what may do harm, so whoever may cancel may pause; to go on sends commands. There is nothing to hold
   * where all hosts have it; what was sent and is not answered may be sent again.
   */
  function drawPause(task) {
    const { state, counts, awaits_approval: awaitsApproval, waits_after_canary: waitsAfterCanary } = task;
    part.goOn.hidden = !waitsAfterCanary || isExpired(task);
    part.goOn.disabled = false;
    permit(part.goOn, user, "tasks.run");
    const isPaused = state === "paused";
    part.pause.hidden = isExpired(task) || (!isPaused && !(state === "running" && (counts.queued || counts.sent)));
    part.pause.disabled = false;
    permit(part.pause, user, isPaused ? "tasks.run" : "tasks.cancel");
    text(part.pause, t(awaitsApproval ? "task.approve" : isPaused ? "task.resume" : "task.pause"));
  }

  /** Nothing of it is sent any more, and so there is nothing to hold or to let go on. */
  const isExpired = (task) => task.state !== "finished" && Date.parse(task.expires_at) <= stream.now();

  /** Other tasks change the same tables: what is not ours draws nothing and asks for nothing. */
  function hasChanged(task, rows) {
    const now = `${isExpired(task)}/${task.pos}/${rows.length}/${rows.reduce((most, row) => Math.max(most, row.pos), 0)}`;
    const isNew = now !== drawn;
    drawn = now;
    return isNew;
  }

  function drawFacts(task) {
    facts(part.facts, [
      [t("task.id"), create("code", { textContent: task.task_id })],
      [t("run.user"), task.user],
      [t("task.timeout"), duration(task.timeout * 1000)],
      ["argv", task.argv && JSON.stringify(task.argv)],
      ["env", asked?.env && JSON.stringify(asked.env)],
      ["cwd", asked?.cwd],
      ["stdin", asked?.stdin && bytes(new TextEncoder().encode(asked.stdin).length)],
      [t("task.again"), asked && part.again.hidden ? t("task.again_not") : null],
      [t("run.reason"), task.reason],
      [t("run.when_offline"), t(`run.${task.when_offline}`)],
      [t("task.expires"), task.state === "finished" ? null : timeNode(task.expires_at)],
      [t("task.answers_until"), task.state === "finished" ? null : timeNode(task.answers_until)],
      [t("task.rollout"), rolloutText(task, t)],
      [t("task.stopped"), because(task.rollout_stopped ?? "")],
      [t("task.retry_of"), task.retry_of && taskLink(task.retry_of)],
      [t("task.retries"), retries.length ? links(retries) : null],
      [t("task.position"), String(task.seq)],
    ]);
  }

  function drawExecutions(task, found) {
    const rows = found.sort((a, b) => attention(a.state) - attention(b.state) || (a.hostname < b.hostname ? -1 : 1));
    keyedList(part.executions, rows, (row) => row.hostname, () => make("execution-row").root, (element, row) => {
      const cells = refs(element);
      badge(cells.state, "execution", row.state);
      cells.state.title = visible(because(row.reason ?? ""));
      cells.host.href = `/hosts/${encodeURIComponent(row.hostname)}`;
      text(cells.host, row.hostname);
      text(cells.exit, row.exit_code === null ? "" : String(row.exit_code));
      text(cells.took, between(task.accepted_at, row.finished_at));
      text(cells.line, reasonText(row) || row.first_line);
    });
  }

  async function cancel() {
    const { counts } = store.one("tasks", taskId);
    const running = (counts.accepted ?? 0) + (counts.running ?? 0) + (counts.sent ?? 0);
    const answer = await confirmDialog({
      title: t("task.cancel_title"),
      body: t("task.cancel_what", { done: endedOf(counts), running }),
      yes: t("task.cancel"),
      no: t("task.keep"),
    });
    if (!answer) return;
    part.cancel.disabled = true;
    try {
      await api.post(`${url}/cancel`, {}, { signal });
    } catch (error) {
      toast(told(error), "bad");
      part.cancel.disabled = false;
    }
  }

  /** Pause, or resume: that also approves, and ends the wait after a canary. */
  async function turn(button, way) {
    button.disabled = true;
    try {
      await api.post(`${url}/${way}`, {}, { signal });
    } catch (error) {
      toast(told(error), "bad");
    }
    drawPause(store.one("tasks", taskId));
  }

  async function again() {
    try {
      const made = await retry(store.one("tasks", taskId), executions(), context);
      if (!made) return;
      stream.take("tasks", [made]);
      navigate(`/tasks/${encodeURIComponent(made.task_id)}`);
    } catch (error) {
      if (error.name !== "AbortError") toast(told(error), "bad");
    }
  }

  const load = () => attempt(part.page, read);

  async function read() {
    const task = await api.get(url, { signal });
    if (user.permissions.includes("events.read")) asked ??= (await api.get(`/events/${task.seq}`, { signal })).body.request;
    let page = await api.get(`${url}/executions`, { query: { limit: 1000 }, signal });
    retries = task.retries;
    drawn = ""; // they are no part of what tells whether something has changed
    stream.take("tasks", [task]);
    stream.take("executions", page.items);
    draw();
    if (!isFollowing) {
      stream.follow([`task:${taskId}`], page.as_of, signal, load);
      if (user.permissions.includes("tasks.output")) live.start();
    }
    isFollowing = true;
    while (page.next_cursor) {
      page = await api.get(`${url}/executions`, { query: { limit: 1000, cursor: page.next_cursor }, signal });
      stream.take("executions", page.items);
    }
  }

  part.more.addEventListener("click", () => {
    part.command.classList.toggle("whole");
    drawMore();
  });
  const resizes = new ResizeObserver(drawMore);
  resizes.observe(part.command);
  const clock = setInterval(draw, 1000); // it expires without a change of its row
  signal.addEventListener("abort", () => {
    resizes.disconnect();
    clearInterval(clock);
  });
  part.cancel.addEventListener("click", cancel);
  part.pause.addEventListener("click", () => turn(part.pause, store.one("tasks", taskId).state === "paused" ? "resume" : "pause"));
  part.goOn.addEventListener("click", () => turn(part.goOn, "resume"));
  part.retry.addEventListener("click", again);
  store.subscribe(["tasks", "executions"], draw, signal);
  draw();
  load();
  if (user.permissions.includes("events.read")) eventTable(part.events, { task_id: taskId }, context);
  else part.events.closest("section").hidden = true;
}

/** How it goes to its hosts, and how far that is; nothing where it goes to all of them at once. */
function rolloutText({ rollout, released, targets }, t) {
  if (!rollout) return null;
  const { max_concurrency: atOnce, max_errors: errors, canary, wait } = rollout;
  const first = canary && t("task.rollout_canary", { canary: Array.isArray(canary) ? canary.join(", ") : String(canary) });
  const then = wait === "approve" ? t("run.wait_approve") : wait && t("run.wait_for", { time: duration(wait * 1000) });
  return [t("task.rollout_released", { released, n: targets }), first, then, t("task.rollout_at_once", { n: atOnce }), t("task.rollout_errors", { errors })].filter(Boolean).join(" · ");
}

const taskLink = (taskId) => create("a", { className: "mono", href: `/tasks/${encodeURIComponent(taskId)}`, textContent: taskId });

function links(taskIds) {
  const place = create("span", { className: "row" });
  place.append(...taskIds.map(taskLink));
  return place;
}

/** When the others get it: its canary has ended, and its rows are the only ones that have. */
function goesOnText({ rollout }, rows) {
  const ends = Math.max(...rows.map((row) => Date.parse(row.finished_at) || 0));
  return t("task.waits_after_canary", { time: new Date(ends + rollout.wait * 1000).toLocaleTimeString(language) });
}

/** What the Run page is filled in with to do the same. */
function againOf({ target, rollout, command, user, timeout, when_offline, reason }, asked) {
  const isUsual = asked?.expires_in === EXPIRY_S[rollout ? "rollout" : "once"];
  const where = target.all ? { all: 1 } : target.hosts ? { hosts: target.hosts.join(",") } : target;
  const how = Object.entries(rollout ?? {}).map(([name, value]) => [name, Array.isArray(value) ? value.join(",") : String(value)]);
  return { ...where, ...Object.fromEntries(how), command, user, timeout, when_offline, reason, expires_in: isUsual ? null : asked?.expires_in };
}

/** Why an execution ended as it did, and what its host said after the control plane had given it up. */
function reasonText({ reason, late, leftovers }) {
  return [because(reason ?? ""), leftovers && t("task.leftovers", { n: leftovers }), late && t("task.late", { word: t(`state.execution.${late.outcome}`) })].filter(Boolean).join(" · ");
}

/**
 * The hosts of a task that have ended, by how: `[{state, late, hosts}]`, what needs attention first. Those that were
 * given up and answered after all, as `late` says, stand by themselves.
 */
function endsOf(executions) {
  const ended = executions.filter((row) => !isOpen(row.state));
  const ends = Map.groupBy(ended, (row) => `${row.state}/${row.late?.outcome}`);
  return [...ends.values()]
    .map((rows) => ({ state: rows[0].state, late: rows[0].late?.outcome, hosts: rows.map((row) => row.hostname) }))
    .sort((a, b) => attention(a.state) - attention(b.state) || (a.late ? 1 : -1));
}

/** Ask, preview, confirm and send; the new task, or null where the user would rather not. */
async function retry(task, executions, { api, signal }) {
  const taskId = crypto.randomUUID(); // one for all that follows, so that a lost answer starts nothing twice
  const chosen = await choose(endsOf(executions));
  if (!chosen) return null;
  const hosts = chosen.ends.flatMap((end) => end.hosts).sort();
  const states = [...new Set(chosen.ends.map((end) => end.state))];
  const { command, user } = task;
  const preview = await api.post("/targets/preview", { target: { hosts }, user, command }, { signal });
  const body = await confirmRun(preview, { command, user, reason: chosen.reason });
  if (!body) return null;
  const asked = { states, hosts, task_id: taskId, preview_id: preview.preview_id, ...(body.reason && { reason: body.reason }) };
  return (await api.post(`/tasks/${encodeURIComponent(task.task_id)}/retry`, asked, { signal })).task;
}

/** Where it did not work it is to be tried again, if the user does not say otherwise; a late success is one, too. */
function choose(ends) {
  const part = make("retry");
  const boxes = ends.map(({ state, late, hosts }) => {
    const { root, box, state: word } = make("retry-state");
    box.checked = (late ?? state) !== "succeeded";
    const words = `${t(`state.execution.${state}`)}: ${hosts.length}`;
    badge(word, "execution", state, late ? `${words} · ${t("task.late", { word: t(`state.execution.${late}`) })}` : words);
    part.states.append(root);
    return box;
  });
  const chosen = () => ends.filter((_, place) => boxes[place].checked);
  const check = () => {
    const n = chosen().reduce((sum, { hosts }) => sum + hosts.length, 0);
    part.yes.disabled = n === 0;
    part.yes.textContent = n ? t("run.submit", { n }) : t("run.submit_none");
  };
  return ask(part, check, () => ({ ends: chosen() }));
}
