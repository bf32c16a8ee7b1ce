// One task: how far it is, what each host answers, as it comes, and what happened step by step.
/** @import {AuditEvent, Execution, Mount, Params, Rollout, RunRequest, TaskRow, TaskView} from "../app.js" */
import { exact, json, visible } from "../ansi.js";
import { badge, timeNode } from "../components.js";
import { attempt, copies, create, every, facts, keyedList, text } from "../dom.js";
import { bytes, duration } from "../format.js";
import { because, t } from "../i18n.js";
import { link, match, moment, taskPath } from "../router.js";
import { taskState } from "../states.js";
import { middleDelays } from "../delays.js";
import { againOf, isUnshown } from "./again.js";
import { eventTable } from "./audit.js";
import { executionPane } from "./execution.js";
import { liveCards } from "./live.js";
import { outputCards } from "./outputs.js";
import { actions } from "./task_actions.js";
import { hostRows } from "./task_hosts.js";
import { progress } from "./task_progress.js";
import { delaysText } from "./task_words.js";
import { targetText } from "./tasks.js";

const TABS = /** @type {const} */ (["outputs", "hosts", "live", "events"]); // the first is not named in the address
const LESS_THAN_A_LINE_PX = 12;
const RESTS = 10; // times as long as drawing took: a large task leaves time for its user
const NARROW = matchMedia("(max-width: 1000px)"); // as in layout.css

/** @type {Mount<"task">} */
export function mount(part, first, context) {
  const { api, store, stream, signal, user } = context;
  const { task_id: taskId = "" } = first;
  const url = taskPath(taskId);
  const may = (/** @type {string} */ permission) => user.permissions.includes(permission);
  let params = first;
  let drawn = ""; // of which rows
  let drawnTask = "";
  let drawing = { ended: 0, took: 0, timer: 0 };
  let isRead = false;
  /** @type {string[]} */
  let retries = []; // the stream's rows do not have them
  /** @type {?AuditEvent} */
  let approved = null;
  /** @type {?RunRequest} */
  let asked = null; // what the event of its acceptance has of it, and no row
  /** @type {Set<string>} */
  let basic = new Set();
  /** @type {?number} */
  let pastMs = null; // the moment that is shown
  /** @type {?ReturnType<typeof executionPane>} */
  let pane = null; // of one host, beside the page
  /** @type {?HTMLElement} */
  let opener = null;
  /** @type {?ReturnType<typeof executionPane>} */
  let only = null; // the pane of the only host
  let hasEvents = false;

  /** @type {TaskView} */
  const view = {
    taskId,
    url,
    params: () => params,
    address: ({ tab = params.tab, ...more }) => link(url, { tab: tab === TABS[0] ? null : tab, ...Object.fromEntries(["state", "group", "host", "stream"].map((name) => [name, params[name]])), ...more }),
    go: (more) => context.navigate(view.address(more)),
    went: () => update(match(location.pathname, location.search).params),
    current: () => store.one("tasks", taskId),
    executions: () => store.all("executions").filter((row) => row.task_id === taskId),
    rowOf: (hostname) => store.one("executions", `${taskId}/${hostname}`),
    basic: () => basic,
    isRead: () => isRead,
    now: () => (moment() === null ? stream.now() : pastMs),
    isExpired: (task) => task.state !== "finished" && Date.parse(task.expires_at) <= (view.now() ?? 0),
  };
  const buttons = actions(part, view, context);
  const live = liveCards(part, taskId, context, () => outputs.draw());
  const outputs = outputCards(part, view, context, live.printedBy);
  const hosts = hostRows(part, view, context);
  const bar = progress(part, view);

  /** @param {Params} next */
  function update(next) {
    params = next;
    drawn = drawnTask = "";
    draw();
  }

  function drawSoon() {
    const now = performance.now();
    const wait = drawing.ended + drawing.took * RESTS - now;
    if (wait > 0) return void (drawing.timer ||= setTimeout(drawSoon, wait));
    clearTimeout(drawing.timer);
    draw();
    drawing = { ended: performance.now(), took: performance.now() - now, timer: 0 };
  }

  const tab = () => TABS.find((name) => name === params.tab) ?? TABS[0];

  function draw() {
    const task = view.current();
    const rows = view.executions();
    drawTabs(task);
    if (!task || !hasChanged(task, rows)) return;
    if (drawnTask !== (drawnTask = `${task.pos}/${view.isExpired(task)}`)) drawTask(task);
    bar.draw(task, rows);
    drawOnly(task, rows);
    drawPane();
    live.changed(rows.filter((row) => !row.finished_at));
    outputs.changed(tab() === "outputs" && task.targets > 1);
    if (tab() === "outputs" && task.targets > 1) outputs.draw();
    if (tab() === "hosts") hosts.draw(rows);
    if (tab() === "events") drawEvents(rows);
  }

  /** @param {TaskRow} task */
  function drawTask(task) {
    context.title(task.command);
    text(part.command, exact(task.command));
    badge(part.state, "task", taskState(task));
    part.about.replaceChildren(visible(`${targetText(task.target)} · ${task.actor} · `), timeNode(task.accepted_at));
    part.again.hidden = !asked || isUnshown(asked);
    part.again.href = link("/run", againOf(task, asked));
    buttons.draw(task);
    drawFacts(task);
    drawMore();
  }

  /** @param {TaskRow | undefined} task */
  function drawTabs(task) {
    const shown = TABS.filter((name) => name !== "events" || may("events.read"));
    keyedList(part.tabs, shown, (name) => name, "a", (element, name) => {
      element.className = "button";
      element.href = view.address({ tab: name });
      element.ariaCurrent = name === tab() ? "page" : null;
      text(element, t(`task.${name}`));
    });
    for (const name of TABS) part[`${name}Tab`].hidden = name !== tab();
    const isBeside = task?.targets === 1 && tab() === "outputs";
    part.liveTab.hidden &&= !isBeside;
    part.liveTab.classList.toggle("beside", isBeside);
    part.grouped.hidden = task?.targets === 1;
  }

  /** Other tasks change the same tables. @param {TaskRow} task @param {Execution[]} rows */
  function hasChanged(task, rows) {
    const now = `${view.isExpired(task)}/${task.pos}/${rows.length}/${rows.reduce((most, row) => Math.max(most, row.pos), 0)}`;
    return now !== drawn && (drawn = now);
  }

  /** @param {TaskRow} task @param {Execution[]} rows */
  function drawOnly(task, [row]) {
    if (task.targets !== 1 || !row) return;
    only ??= executionPane(row.hostname, view, context);
    if (!only.root.isConnected) part.only.replaceChildren(only.root);
    if (tab() === "outputs") only.draw();
  }

  function drawPane() {
    const host = params.host && !(only && tab() === "outputs") ? params.host : null;
    if (pane && pane.hostname !== host) {
      pane.root.remove();
      pane = null;
      if (!host) (opener?.isConnected ? opener : part.command).focus({ preventScroll: true });
    }
    if (host && !pane) {
      const before = document.activeElement;
      if (before instanceof HTMLElement && !before.closest(".pane")) opener = before;
      pane = executionPane(host, view, context, close);
      part.root.append(pane.root);
      pane.name.focus({ preventScroll: true });
    }
    part.root.classList.toggle("beside-pane", Boolean(pane));
    for (const element of part.root.children) element.toggleAttribute("inert", pane !== null && NARROW.matches && element !== pane.root);
    pane?.draw();
  }

  const close = () => view.go({ host: null, stream: null });

  /** @param {Execution[]} rows */
  function drawEvents(rows) {
    const delays = delaysText(middleDelays(rows));
    text(part.delays, delays && rows.length > 1 ? t("task.delays", { n: rows.length, delays }) : delays);
    if (!hasEvents && may("events.read")) eventTable(part.events, { task_id: taskId }, context);
    hasEvents = true;
  }

  function drawMore() {
    const isWhole = part.command.classList.contains("whole");
    part.more.hidden = !isWhole && part.command.scrollHeight - part.command.clientHeight < LESS_THAN_A_LINE_PX;
    part.more.ariaExpanded = String(isWhole);
    text(part.more, t(isWhole ? "task.command_less" : "task.command_whole"));
  }

  /** @param {TaskRow} task */
  function drawFacts(task) {
    const isFinished = task.state === "finished";
    facts(part.facts, "task", {
      id: create("code", task.task_id),
      target: `${targetText(task.target)} · ${t("task.on_hosts", { n: task.targets })}`,
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

  const load = () => attempt(part.page, read);

  async function read() {
    const task = await api.get(url);
    if (may("events.read") && !asked) {
      const { body } = await api.get(`/events/${task.seq}`);
      const { request, basic: names, approval_id: approval } = /** @type {{request: RunRequest, basic?: string[], approval_id?: string}} */ (body);
      if (approval) [approved] = (await api.get("/events", { task_id: taskId, kind: "approval.approved" })).items;
      basic = new Set(names);
      asked = request;
    }
    pastMs ??= await momentMs();
    const readRows = (/** @type {string} */ cursor = "") => api.get(`${url}/executions`, { limit: 1000, cursor });
    let page = await readRows();
    retries = task.retries;
    drawn = drawnTask = ""; // they change without a row
    stream.take("tasks", [task]);
    stream.take("executions", page.items);
    isRead = page.next_cursor === null;
    draw();
    stream.follow([`task:${taskId}`], page.as_of, signal, load);
    if (may("tasks.output") && moment() === null) live.start();
    while (page.next_cursor) {
      page = await readRows(page.next_cursor);
      isRead = page.next_cursor === null;
      stream.take("executions", page.items);
    }
  }

  /** A position has the time of its event, for whoever may read that. @returns {Promise<number | null>} */
  async function momentMs() {
    const seq = /^e?(\d+)(\.|$)/.exec(moment() ?? "")?.[1];
    if (!seq) return Date.parse(moment() ?? "") || null;
    return may("events.read") && Number(seq) ? Date.parse((await api.get(`/events/${seq}`)).recorded_at) : null;
  }

  context.title(taskId);
  text(part.command, taskId);
  const line = `cpctl tasks show ${taskId}`;
  text(part.line, line);
  copies(part.copyLine, () => line);
  copies(part.copyId, () => taskId);
  part.more.onclick = () => {
    part.command.classList.toggle("whole");
    drawMore();
  };
  const resizes = new ResizeObserver(drawMore);
  resizes.observe(part.command);
  signal.addEventListener("abort", () => {
    clearTimeout(drawing.timer);
    resizes.disconnect();
  });
  document.addEventListener("keydown", (event) => {
    const isTyped = event.isComposing || (event.target && "value" in event.target && event.target.value); // a field is emptied first
    if (event.key === "Escape" && pane && !isTyped && !document.querySelector("dialog[open]")) close();
  }, { signal });
  NARROW.addEventListener("change", () => pane && drawPane(), { signal });
  window.addEventListener("hashchange", view.went, { signal }); // another line
  // It expires, and time passes, without a change of its row.
  if (moment() === null) every(1000, () => {
    const task = view.current();
    if (task && task.state !== "finished") bar.draw(task, view.executions());
    draw();
  }, signal);
  for (const table of /** @type {const} */ (["tasks", "executions"])) store.keep(table, (row) => row.task_id === taskId, signal);
  store.subscribe(["tasks", "executions"], drawSoon, signal);
  update(first);
  load();
  return { update };
}

/** @param {TaskRow} task */
function rolloutText({ rollout, released, targets }) {
  if (!rollout) return null;
  const { max_concurrency: atOnce, max_errors: errors, canary, wait } = /** @type {Rollout} */ (rollout);
  const first = canary && t("task.rollout_canary", { canary: [canary].flat().join(", ") });
  const then = wait === "approve" ? t("run.wait_approve") : wait && t("run.wait_for", { time: duration(wait * 1000) });
  return [t("task.rollout_released", { released, n: targets }), first, then, t("task.rollout_at_once", { n: atOnce }), t("task.rollout_errors", { errors })].filter(Boolean).join(" · ");
}

/** @param {string[]} taskIds */
function links(taskIds) {
  const place = create("span", "", { className: "row" });
  place.append(...taskIds.map((taskId) => create("a", taskId, { className: "mono", href: taskPath(taskId) })));
  return place;
}
