// What runs and what has run on one host: what waits for it first.
/** @import {Context, Parts, TaskRow} from "../app.js" */
import { badge } from "../components.js";
import { attempt, create, text } from "../dom.js";
import { duration, when } from "../format.js";
import { language, t } from "../i18n.js";
import { taskPath } from "../router.js";
import { isOpen, taskState } from "../states.js";
import { newestFirst } from "./newest.js";
import { runningCards } from "./running.js";
import { SHOWS, UNFINISHED, elapsed, ofHost } from "./tasks.js";

const MOST_OPEN = 20; // that are shown above the others
const MOST_ASKED = 5; // of tasks on several hosts: each is a request
const AWAY = ["offline", "pending", "stale"];

/**
 * `onRead` is told as of when, and what can be followed from there.
 * @param {Parts["host"]} part @param {string} hostname @param {Context} context
 * @param {(asOf: string, topics: string[]) => void} onRead @returns {() => void} what reads them
 */
export function tasksOf(part, hostname, context, onRead) {
  const { api, store, stream, user } = context;
  if (!user.permissions.includes("tasks.read")) return withoutTasks(part, hostname, context, onRead);
  const own = ofHost(hostname, store);

  /** How its part here stands; null: it is over, or not known. @param {TaskRow} task */
  function openState(task) {
    if (task.state === "finished" || !own.has(task)) return null;
    const [only] = task.targets === 1 ? Object.keys(task.counts) : [];
    const state = only ?? store.one("executions", `${task.task_id}/${hostname}`)?.state;
    return state && isOpen(state) ? state : null;
  }

  const waits = (/** @type {TaskRow} */ task) => ["queued", "sent"].includes(openState(task) ?? "");
  const find = () => store.all("tasks").filter(openState).sort((a, b) => Number(waits(b)) - Number(waits(a)) || b.seq - a.seq).slice(0, MOST_OPEN);

  /** @param {Parts["running-card"]} card @param {TaskRow} task */
  function show(card, task) {
    const state = openState(task);
    if (state) badge(card.state, "execution", state);
    else badge(card.state, "task", taskState(task));
    text(card.about, [task.state === "paused" && t("state.task.paused"), aboutText(task, state), task.actor].filter(Boolean).join(" · "));
  }

  /** @param {TaskRow} task @param {?string} state */
  function aboutText(task, state) {
    const until = when(task.expires_at, stream.now(), language);
    if (!state) return elapsed(task);
    if (!waits(task)) return t("host.runs_for", { time: elapsed(task), most: duration(task.timeout * 1000) });
    const host = store.one("hosts", hostname);
    if (host?.quarantine) return t("host.waits_trust", { until });
    return t(AWAY.includes(host?.state ?? "") ? "host.waits_return" : "host.waits", { until });
  }

  const cards = runningCards(part.open, part.running, context, { tables: ["tasks", "executions", "hosts"], find, show, onTurn: () => list.draw() });
  const list = newestFirst(part.tasks, context, {
    from: "tasks",
    tables: ["tasks", "executions"],
    head: "task-head", shows: SHOWS,
    isWanted: (task) => own.has(task) && !cards.has(task),
    none: () => [t(part.open.hidden ? "host.no_tasks" : "host.no_other_tasks")],
    query: () => ({ hostname }),
    limit: 10,
    onPage({ items, as_of: asOf }) {
      own.add(items);
      onRead(asOf, [`host:${hostname}`]);
    },
  });

  async function readOpen() {
    const { items } = await api.get("/tasks", { hostname, state: UNFINISHED.join(","), limit: MOST_OPEN });
    own.add(items);
    stream.take("tasks", items);
    const several = items.filter((task) => task.targets > 1).slice(0, MOST_ASKED);
    await Promise.all(several.map(async ({ task_id: taskId }) => stream.take("executions", [await api.get(`${taskPath(taskId)}/executions/${encodeURIComponent(hostname)}`)])));
    cards.draw();
    list.draw();
  }

  return () => {
    attempt(part.top, readOpen);
    list.load();
  };
}

/** To ask for tasks would be refused, and recorded; the host itself is followed, with all others.
 * @type {typeof tasksOf} */
function withoutTasks(part, hostname, { api, stream }, onRead) {
  part.tasks.replaceChildren(create("p", t("shell.needs", { permission: "tasks.read" }), { className: "empty" }));
  return () => attempt(part.top, async () => {
    const page = await api.get("/hosts", { q: `name:${hostname}*`, limit: 1 }); // by hostname: itself is the first
    stream.take("hosts", page.items);
    onRead(page.as_of, ["hosts", "usage"]);
  });
}
