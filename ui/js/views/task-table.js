// A list of tasks, newest first, from the store; shared by the pages that have one.
import { badge, empty, time } from "../components.js";
import { keyedList, make, refs, text } from "../dom.js";
import { ANSWERS, answersOf, taskState } from "../states.js";

/**
 * Draw the tasks that `filter` lets through, and again when they or what else it looks at (`tables`) changes. New ones wait behind a button unless the page
 * is at its top, so that nothing moves under the user.
 */
export function taskTable(place, { store, signal, t }, { filter, tables = ["tasks"], emptyText, emptyLink }) {
  const part = make("task-table");
  place.replaceChildren(part.root);
  const seen = new Set();

  function draw() {
    const tasks = store.all("tasks").filter(filter).sort((a, b) => b.seq - a.seq);
    if (window.scrollY < 40 || !seen.size) for (const task of tasks) seen.add(task.task_id);
    const waiting = tasks.filter((task) => !seen.has(task.task_id)).length;
    part.news.hidden = waiting === 0;
    text(part.news, t("shell.news", { n: waiting }));
    keyedList(part.rows, tasks.filter((task) => seen.has(task.task_id)), (task) => task.task_id, () => make("task-row").root, updateRow);
    part.empty.hidden = tasks.length > 0;
    if (!tasks.length) empty(part.empty, emptyText, emptyLink, t("run.title"));
  }

  function updateRow(element, task) {
    const row = refs(element);
    badge(row.state, "task", taskState(task));
    row.command.href = `/tasks/${encodeURIComponent(task.task_id)}`;
    text(row.command, task.command);
    text(row.target, targetText(task.target, t));
    text(row.answers, answersText(task.counts, t));
    text(row.who, task.actor);
    time(row.when, task.accepted_at);
  }

  part.news.addEventListener("click", () => {
    for (const task of store.all("tasks")) seen.add(task.task_id);
    draw();
  });
  store.subscribe(tables, draw, signal);
  draw();
  return { draw, more: part.more };
}

export function targetText(target, t) {
  if (target.all) return t("run.all");
  if (target.group) return t("run.in_group", { group: target.group });
  if (target.hosts) return t("run.n_hosts", { n: target.hosts.length });
  return target.host;
}

export function answersText(counts, t) {
  const sums = answersOf(counts);
  return ANSWERS.filter((answer) => sums[answer]).map((answer) => t(`task.answer_${answer}`, { n: sums[answer] })).join(" · ");
}
