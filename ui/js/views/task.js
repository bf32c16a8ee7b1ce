// One task: how far it is, what each host answers, as it comes, and what happened step by step.
import { exact, json, visible } from "../ansi.js";
import { EXPIRY_S } from "../commandline.js";
import { badge, timeNode } from "../components.js";
import { act, attempt, create, every, facts, keyedList, text } from "../dom.js";
import { bytes, duration } from "../format.js";
import { because, t } from "../i18n.js";
import { link, match, moment, taskPath } from "../router.js";
import { taskState } from "../states.js";
import { middleDelays } from "../delays.js";
import { eventTable } from "./audit.js";
import { executionPane } from "./execution.js";
import { liveCards } from "./live.js";
import { outputCards } from "./outputs.js";
import { actions } from "./task_actions.js";
import { hostRows } from "./task_hosts.js";
import { progress } from "./task_progress.js";
import { delaysText } from "./task_words.js";
import { targetText } from "./tasks.js";

const TABS = ["outputs", "hosts", "live", "events"]; // the first is not named in the address
const LESS_THAN_A_LINE_PX = 12;
const UNSHOWN = ["argv", "env", "secrets", "cwd", "stdin"]; // on the Run page
const RESTS = 10; // times as long as drawing took: a large task leaves time for its user
const NARROW = matchMedia("(max-width: 1000px)"); // as in layout.css

export function mount(part, first, context) {
  const { api, store, stream, signal, user } = context;
  const { task_id: taskId } = first;
  const url = taskPath(taskId);
  const may = (permission) => user.permissions.includes(permission);
  let params = first;
  let drawn = ""; // of which rows
  let drawnTask = "";
  let drawing = { ended: 0, took: 0, timer: 0 };
  let isRead = false;
  let retries = []; // the stream's rows do not have them
  let approved = null;
  let asked = null; // what the event of its acceptance has of it, and no row
  let basic = new Set();
  let pastMs = null; // the moment that is shown
  let pane = null; // of one host, beside the page
  let opener = null;
  let only = null; // the pane of the only host
  let hasEvents = false;

  const view = {
    taskId,
    url,
    params: () => params,
    address: ({ tab = params.tab, ...more }) => link(url, { tab: tab === TABS[0] ? null : tab, ...Object.fromEntries(["state", "group", "host", "stream"].map((name) => [name, params[name]])), ...more }),
    go: (more) => context.navigate(view.address(more)),
    went: () => update(match(location.pathname, location.search).params),
    current: () => store.one("tasks", taskId),
    executions: () => store.all("executions").filter((row) => row.task_id === taskId),
    rowOf: (hostname) => store.one("executions", `${taskId}/${hostname}`) ?? {},
    basic: () => basic,
    isRead: () => isRead,
    now: () => (moment() === null ? stream.now() : pastMs),
    isExpired: (task) => task.state !== "finished" && Date.parse(task.expires_at) <= view.now(),
  };
  const buttons = actions(part, view, context);
  const live = liveCards(part, taskId, context, () => outputs.draw());
  const outputs = outputCards(part, view, context, live.printedBy);
  const hosts = hostRows(part, view, context);
  const bar = progress(part, view);

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

  const tab = () => (TABS.includes(params.tab) ? params.tab : TABS[0]);

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

  function drawTask(task) {
    context.title(task.command);
    text(part.command, exact(task.command));
    badge(part.state, "task", taskState(task));
    part.about.replaceChildren(visible(`${targetText(task.target)} · ${task.actor} · `), timeNode(task.accepted_at));
    part.again.hidden = !asked || UNSHOWN.some((name) => asked[name]);
    part.again.href = link("/run", againOf(task, asked));
    buttons.draw(task);
    drawFacts(task);
    drawMore();
  }

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

  /** Other tasks change the same tables. */
  function hasChanged(task, rows) {
    const now = `${view.isExpired(task)}/${task.pos}/${rows.length}/${rows.reduce((most, row) => Math.max(most, row.pos), 0)}`;
    return now !== drawn && (drawn = now);
  }

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
      if (!before?.closest(".pane")) opener = before;
      pane = executionPane(host, view, context, close);
      part.root.append(pane.root);
      pane.name.focus({ preventScroll: true });
    }
    part.root.classList.toggle("beside-pane", Boolean(pane));
    for (const element of part.root.children) element.inert = Boolean(pane) && NARROW.matches && element !== pane.root;
    pane?.draw();
  }

  const close = () => view.go({ host: null, stream: null });

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
      const { request, basic: names, approval_id: approval } = (await api.get(`/events/${task.seq}`)).body;
      if (approval) [approved] = (await api.get("/events", { task_id: taskId, kind: "approval.approved" })).items;
      basic = new Set(names);
      asked = request;
    }
    pastMs ??= await momentMs();
    const readRows = (cursor) => api.get(`${url}/executions`, { limit: 1000, cursor });
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

  /** A position has the time of its event, for whoever may read that. */
  async function momentMs() {
    const seq = /^e?(\d+)(\.|$)/.exec(moment() ?? "")?.[1];
    if (!seq) return Date.parse(moment()) || null;
    return may("events.read") && Number(seq) ? Date.parse((await api.get(`/events/${seq}`)).recorded_at) : null;
  }

  function copies(button, words) {
    button.onclick = async () => {
      await act(button, () => navigator.clipboard.writeText(words));
      button.disabled = false;
      text(button, t("shell.copied"));
    };
  }

  context.title(taskId);
  text(part.command, taskId);
  text(part.line, `cpctl tasks show ${taskId}`);
  copies(part.copyLine, part.line.textContent);
  copies(part.copyId, taskId);
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
    const isTyped = event.isComposing || event.target.value; // a field is emptied first
    if (event.key === "Escape" && pane && !isTyped && !document.querySelector("dialog[open]")) close();
  }, { signal });
  NARROW.addEventListener("change", () => pane && drawPane(), { signal });
  // It expires, and time passes, without a change of its row.
  if (moment() === null) every(1000, () => {
    const task = view.current();
    if (task && task.state !== "finished") bar.draw(task, view.executions());
    draw();
  }, signal);
  store.subscribe(["tasks", "executions"], drawSoon, signal);
  update(first);
  load();
  return { update };
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

function againOf({ target, rollout, command, user, timeout, when_offline, reason }, asked) {
  const isUsual = asked?.expires_in === EXPIRY_S[rollout ? "rollout" : "once"];
  const where = target.all ? { all: 1 } : target.hosts ? { hosts: target.hosts.join(",") } : target;
  const how = Object.entries(rollout ?? {}).map(([name, value]) => [name, [value].flat().join(",")]);
  return { ...where, ...Object.fromEntries(how), command, user, timeout, when_offline, reason, expires_in: isUsual ? null : asked?.expires_in };
}
