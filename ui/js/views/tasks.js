// What was run: all tasks, newest first.
import { make, problem } from "../dom.js";
import { link } from "../router.js";
import { taskTable } from "./task-table.js";

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

  const matches = (task) =>
    task.seq >= oldest &&
    (!filter.q || task.command.toLowerCase().includes(filter.q.toLowerCase())) &&
    (!filter.state || (filter.state === "finished") === (task.state === "finished"));
  const table = taskTable(part.list, context, { filter: matches, emptyText: t("tasks.none"), emptyLink: "/run" });
  const change = (more) => navigate(link("/tasks", { ...filter, ...more }), { replace: true });
  part.q.addEventListener("input", () => change({ q: part.q.value }));
  part.state.addEventListener("change", () => change({ state: part.state.value }));
  table.more.addEventListener("click", () => read(cursor));

  async function read(from) {
    try {
      const page = await api.get("/tasks", { query: { q: filter.q, state: filter.state, cursor: from, limit: 100 }, signal });
      cursor = page.next_cursor;
      oldest = cursor ? page.items.at(-1).seq : 0;
      stream.take("tasks", page.items);
      table.more.hidden = !cursor;
      table.draw();
      if (!from) stream.follow(["tasks"], page.as_of, signal, () => read(null));
    } catch (error) {
      if (error.name !== "AbortError") problem(part.list, error, () => mountList(root, filter, context));
    }
  }

  function update(next) {
    filter = next;
    if (document.activeElement !== part.q) part.q.value = filter.q ?? "";
    part.state.value = filter.state ?? "";
    read(null);
  }
  update(params);
  return { update };
}
