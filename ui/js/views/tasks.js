// What was run: all tasks, newest first; on the page of a host its own.
import { exact } from "../ansi.js";
import { anchor, badge } from "../components.js";
import { filtersOf } from "../dom.js";
import { t } from "../i18n.js";
import { taskPath } from "../router.js";
import { ANSWERS, answersOf, taskState } from "../states.js";
import { newestFirst } from "./newest.js";

const TYPING_MS = 250;
const STATES = { running: ["running", "paused", "cancelling"], paused: ["paused"], finished: ["finished"] };
const SHOWS = {
  state: (task, cell) => badge(cell, "task", taskState(task)),
  command: (task, cell) => anchor(cell, taskPath(task.task_id), exact(task.command)),
  target: (task) => targetText(task.target),
  counts: (task) => answersText(task.counts),
};

export function mount(part, params, context) {
  let filter = params;
  let timer = 0;
  const list = newestFirst(part.list, context, {
    from: "tasks",
    head: "task-head", shows: SHOWS,
    isWanted: (task) => (!filter.q || task.command.toLowerCase().includes(filter.q.toLowerCase())) && (!filter.state || STATES[filter.state]?.includes(task.state)),
    none: [t("tasks.none"), "/run", t("run.title")],
    query: () => ({ q: filter.q, state: STATES[filter.state]?.join(",") }),
  });
  const filters = filtersOf(part, "/tasks", ["q", "state"], context.navigate);

  function update(next) {
    const wait = filter === next ? 0 : TYPING_MS;
    filter = next;
    filters.show(next);
    list.draw();
    clearTimeout(timer);
    timer = setTimeout(list.load, wait);
  }
  context.signal.addEventListener("abort", () => clearTimeout(timer));
  update(params);
  return { update };
}

/** The last tasks of a host; those that come have an execution of it. */
export function tasksOf(place, hostname, context, onRead) {
  const taskIds = new Set();
  const isItsOwn = (task) => taskIds.has(task.task_id) || context.store.one("executions", `${task.task_id}/${hostname}`);
  newestFirst(place, context, {
    from: "tasks",
    tables: ["tasks", "executions"],
    head: "task-head", shows: SHOWS,
    isWanted: isItsOwn,
    none: [t("host.no_tasks")],
    query: () => ({ hostname }),
    limit: 10,
    onPage({ items, as_of: asOf }) {
      for (const task of items) taskIds.add(task.task_id);
      onRead(asOf);
    },
  }).load();
}

export function targetText(target) {
  if (target.all) return t("run.all");
  if (target.group) return t("run.in_group", { group: target.group });
  if (target.hosts) return t("run.n_hosts", { n: target.hosts.length });
  return target.host ?? target.query;
}

export function answersText(counts) {
  const sums = answersOf(counts);
  return ANSWERS.filter((answer) => sums[answer]).map((answer) => t(`task.answer_${answer}`, { n: sums[answer] })).join(" · ");
}
