// What was run: what is under way on top, then the others, newest first.
/** @import {Context, Mount, Nothing, Params, Parts, QueryFor, Shows, Target, TaskRow} from "../app.js" */
import { exact } from "../ansi.js";
import { anchor, badge, field } from "../components.js";
import { attempt, create, filtersOf, one, options, successive, text } from "../dom.js";
import { between, fromField, toField } from "../format.js";
import { t } from "../i18n.js";
import { moment, taskPath } from "../router.js";
import { ANSWERS, answersOf, taskState } from "../states.js";
import { now } from "../stream.js";
import { newestFirst } from "./newest.js";
import { runningCards } from "./running.js";

const TYPING_MS = 250;
const MOST_RUNNING = 100;
export const UNFINISHED = ["running", "paused", "cancelling"];
const STATES = new Map(Object.entries({ running: UNFINISHED, paused: ["paused"], cancelling: ["cancelling"], finished: ["finished"] }));
const OUTCOMES = ["succeeded", "failed", "cancelled"];
const TYPED = /** @type {const} */ (["actor", "hostname"]);
const TIMES = /** @type {const} */ (["from", "to"]);

/** @type {Shows<TaskRow>} */
export const SHOWS = {
  state: (task, cell) => badge(cell, "task", taskState(task)),
  command: drawCommand,
  target: (task) => targetText(task.target),
  counts: (task) => answersText(task.counts),
  took: (task) => between(task.accepted_at, task.finished_at),
};

/** @type {Mount<"tasks">} */
export function mount(part, params, context) {
  const { api, navigate, signal, store, stream } = context;
  const [nextRead, nextHost] = [successive(signal), successive(signal)];
  let filter = params;
  let timer = 0;
  /** @type {(ReturnType<typeof ofHost> & {signal: AbortSignal}) | null} */
  let own = null; // of the host that is asked for
  const isWanted = (/** @type {TaskRow} */ task) => matches(task, filter) && (!own || own.has(task));
  const isSplit = () => !filter.state && !filter.outcome;
  const running = () => store.all("tasks").filter((task) => UNFINISHED.includes(task.state) && isWanted(task)).sort((a, b) => b.seq - a.seq);

  const cards = runningCards(part.open, part.running, context, {
    tables: ["tasks", "executions"],
    find: () => (isSplit() ? running().slice(0, MOST_RUNNING) : []),
    show: showRunning,
    onTurn: () => list.draw(),
  });
  const list = newestFirst(part.list, context, {
    from: "tasks",
    tables: ["tasks", "executions"],
    head: "task-head", shows: SHOWS,
    isWanted: (task) => isWanted(task) && !cards.has(task) && (!isSplit() || task.state === "finished"),
    none: () => noneOf(filter, !part.open.hidden),
    query: () => ({ ...queryOf(filter), state: isSplit() ? "finished" : STATES.get(filter.state ?? "")?.join(",") }),
    onPage({ items, as_of: asOf }) {
      own?.add(items);
      if (own) stream.follow([`host:${filter.hostname}`], asOf, own.signal, load);
    },
  });
  const input = (/** @type {string} */ name, /** @type {string} */ label, /** @type {string} */ type) =>
    one(part.fields.appendChild(field({ name, label, type })), "input", HTMLInputElement);
  const inputs = {
    actor: input("actor", t("tasks.who"), "search"),
    hostname: input("hostname", t("fleet.host"), "search"),
    from: input("from", t("tasks.from"), "datetime-local"),
    to: input("to", t("tasks.to"), "datetime-local"),
  };
  const filters = filtersOf(part, "/tasks", ["q"], navigate);
  const typed = filtersOf(inputs, "/tasks", TYPED, navigate, "onchange");
  options(part.state, ["", ...STATES.keys(), ...OUTCOMES], (state) => t(state ? `state.task.${state}` : "tasks.any"));
  part.state.onchange = () => {
    const isOutcome = OUTCOMES.includes(part.state.value);
    filters.change({ state: isOutcome ? "" : part.state.value, outcome: isOutcome ? part.state.value : "" });
  };
  for (const name of TIMES) inputs[name].onchange = () => filters.change({ [name]: fromField(inputs[name].value) });

  /** @param {Params} next */
  function update(next) {
    const isFirst = filter === next;
    if (isFirst || filter.hostname !== next.hostname) own = next.hostname ? { ...ofHost(next.hostname, store), signal: nextHost() } : null;
    filter = next;
    for (const each of [filters, typed]) each.show(next);
    part.state.value = next.outcome || next.state || "";
    for (const name of TIMES) if (inputs[name] !== document.activeElement) inputs[name].value = toField(next[name]);
    part.more.open ||= [...TYPED, ...TIMES].some((name) => next[name]);
    part.clear.hidden = !named(next);
    list.reset();
    cards.draw();
    list.draw();
    clearTimeout(timer);
    timer = setTimeout(load, isFirst ? 0 : TYPING_MS);
  }

  function load() {
    list.load();
    if (isSplit()) attempt(part.top, () => readRunning(nextRead()));
  }

  /** @param {AbortSignal} earlier */
  async function readRunning(earlier) {
    const page = await api.get("/tasks", { ...queryOf(filter), state: UNFINISHED.join(","), limit: MOST_RUNNING }, earlier);
    own?.add(page.items);
    stream.take("tasks", page.items);
    text(part.others, page.next_cursor ? t("tasks.more_running", { n: (page.total ?? 0) - page.items.length }) : "");
    cards.draw();
    list.draw();
  }

  signal.addEventListener("abort", () => clearTimeout(timer));
  update(params);
  return { update };
}

/** Which tasks have a part on a host: those that were read as such, and those whose part there has come.
 * @param {string} hostname @param {Context["store"]} store */
export function ofHost(hostname, store) {
  /** @type {Set<string>} */
  const taskIds = new Set();
  return {
    add: (/** @type {TaskRow[]} */ tasks) => tasks.forEach((task) => taskIds.add(task.task_id)),
    has: (/** @type {TaskRow} */ { task_id: taskId }) => taskIds.has(taskId) || store.one("executions", `${taskId}/${hostname}`) !== undefined,
  };
}

/** @param {Parts["running-card"]} card @param {TaskRow} task */
function showRunning(card, task) {
  badge(card.state, "task", taskState(task));
  text(card.about, [targetText(task.target), answersText(task.counts), task.actor, elapsed(task)].filter(Boolean).join(" · "));
}

/** In the past nobody knows how long it had been by then. @param {TaskRow} task */
export function elapsed({ accepted_at: from, finished_at: to }) {
  return between(from, to ?? (moment() === null ? new Date(now()).toISOString() : null));
}

/** @param {TaskRow} task @param {HTMLElement} cell */
function drawCommand({ task_id: taskId, command, retry_of: first }, cell) {
  anchor(cell, taskPath(taskId), exact(command));
  if (!first || cell.children.length > 1) return;
  const note = create("div", "", { className: "small retry" });
  note.append(create("a", t("tasks.retry_of", { task: first.slice(0, 8) }), { href: taskPath(first) }));
  cell.append(note);
}

/** @param {TaskRow} task @param {Params} filter */
function matches(task, { q, state, outcome, actor, from, to }) {
  const at = Date.parse(task.accepted_at);
  return (
    (!q || task.command.toLowerCase().includes(q.toLowerCase())) &&
    (!state || (STATES.get(state) ?? []).includes(task.state)) &&
    (!outcome || task.outcome === outcome) &&
    (!actor || task.actor === actor) &&
    !(at < Date.parse(from ?? "")) &&
    !(at > Date.parse(to ?? ""))
  );
}

/** @param {Params} filter */
const queryOf = ({ q, outcome, actor, hostname, from, to }) => /** @type {QueryFor<"/tasks">} */ ({ q, outcome, actor, hostname, from, to });

/** The filter in words; nothing where there is none. @param {Params} filter */
function named({ q, state, outcome, actor, hostname, from, to }) {
  const word = outcome || state;
  const said = { "run.command": q, "fleet.state": word && t(`state.task.${word}`), "tasks.who": actor, "fleet.host": hostname, "tasks.from": from, "tasks.to": to };
  return Object.entries(said).filter(([, value]) => value).map(([label, value]) => `${t(label)}: ${value}`).join(" · ");
}

/** @param {Params} filter @param {boolean} isRunning @returns {Nothing} */
function noneOf(filter, isRunning) {
  if (named(filter)) return [t("tasks.no_match", { filter: named(filter) }), "/tasks", t("shell.clear")];
  return isRunning ? [t("tasks.none_finished")] : [t("tasks.none"), "/run", t("run.title")];
}

/** @param {Target} target */
export function targetText(target) {
  if (target.all) return t("run.all");
  if (target.group) return t("run.in_group", { group: target.group });
  if (target.hosts) return t("run.n_hosts", { n: target.hosts.length });
  return target.host ?? target.query;
}

/** @param {TaskRow["counts"]} counts */
export function answersText(counts) {
  const sums = answersOf(counts);
  return ANSWERS.filter((answer) => sums[answer]).map((answer) => t(`task.answer_${answer}`, { n: sums[answer] })).join(" · ");
}
