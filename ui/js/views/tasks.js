// What was run: all tasks, newest first.
import { attempt, make } from "../dom.js";
import { link } from "../router.js";
import { taskTable } from "./task-table.js";

const TYPING_MS = 250;
const STATES = { running: ["running", "paused", "cancelling"], paused: ["paused"], finished: ["finished"] }; // of each choice

export function mountList(root, params, context) {
  const { api, stream, signal, t, title, navigate } = context;
  title(t("shell.tasks"));
  const part = make("tasks");
  root.replaceChildren(part.root);
  part.q.placeholder = t("tasks.filter");
  part.q.setAttribute("aria-label", t("tasks.filter"));
  part.state.setAttribute("aria-label", t("fleet.state"));
  let filter = params;
  let oldest = 0;
  let cursor = null;
  let reading = new AbortController();
  let timer = 0;
  let isFollowing = false;

  const matches = (task) =>
    task.seq >= oldest &&
    (!filter.q || task.command.toLowerCase().includes(filter.q.toLowerCase())) &&
    (!filter.state || STATES[filter.state]?.includes(task.state));
  const table = taskTable(part.list, context, { filter: matches, emptyText: t("tasks.none"), emptyLink: "/run" });
  const change = (more) => navigate(link("/tasks", { ...filter, ...more }), { replace: true });
  part.q.addEventListener("input", () => change({ q: part.q.value }));
  part.state.addEventListener("change", () => change({ state: part.state.value }));
  table.more.addEventListener("click", () => load(cursor));
  signal.addEventListener("abort", () => {
    clearTimeout(timer);
    reading.abort();
  });

  const load = (from = null) => attempt(part.list, () => read(from));

  async function read(from) {
    reading.abort(); // the answer to an older filter counts no more
    reading = new AbortController();
    const query = { q: filter.q, state: STATES[filter.state]?.join(","), cursor: from, limit: 100 };
    const page = await api.get("/tasks", { query, signal: reading.signal });
    cursor = page.next_cursor;
    oldest = cursor ? page.items.at(-1).seq : 0;
    stream.take("tasks", page.items);
    table.more.hidden = !cursor;
    table.draw();
    if (!isFollowing) stream.follow(["tasks"], page.as_of, signal, load);
    isFollowing = true;
  }

  function update(next) {
    filter = next;
    if (document.activeElement !== part.q) part.q.value = filter.q ?? "";
    part.state.value = filter.state ?? "";
    table.draw();
    clearTimeout(timer);
    timer = setTimeout(load, isFollowing ? TYPING_MS : 0);
  }
  update(params);
  return { update };
}
