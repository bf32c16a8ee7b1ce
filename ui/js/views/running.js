// What is under way: a card for each task, with its bar and a way to cancel it.
/** @import {Api, Cards, Context, Parts, TaskRow} from "../app.js" */
import { exact } from "../ansi.js";
import { bar } from "../components.js";
import { act, every, keyedList, make, permit, refs, text } from "../dom.js";
import { t } from "../i18n.js";
import { moment, taskPath } from "../router.js";
import { askCancel, atWorkOf } from "./cancel.js";

const TICK_MS = 1000;
const AT_TOP_PX = 40;

/** Cards in the list of `section`: `find` says of what, `show` fills one in, `onTurn` hears of others. None comes or goes under the pointer, or above what is read.
 * @param {HTMLElement} section @param {HTMLElement} list @param {Context} context @param {Cards} given */
export function runningCards(section, list, { store, signal, api, user }, { tables, find, show, onTurn }) {
  /** @type {string[]} */
  let ids = [];

  function draw() {
    const isHeld = moment() === null && (!isAtTop() || list.matches(":hover, :focus-within"));
    const found = isHeld ? ids : find().map((task) => task.task_id);
    const isOther = String(found) !== String(ids);
    ids = found;
    section.hidden = !ids.length;
    keyedList(list, ids.flatMap((taskId) => store.one("tasks", taskId) ?? []), (task) => task.task_id, create, fill);
    if (isOther) onTurn();
  }

  /** @param {TaskRow} task */
  function create({ task_id: taskId, command }) {
    const card = make("running-card");
    card.command.href = taskPath(taskId);
    text(card.command, exact(command));
    permit(card.cancel, user, "tasks.cancel");
    card.cancel.onclick = () => cancelTask(card.cancel, store.one("tasks", taskId), api);
    return card.root;
  }

  /** @param {HTMLElement} element @param {TaskRow} task */
  function fill(element, task) {
    /** @type {Parts["running-card"]} */
    const card = refs(element);
    bar(card.bar, task.counts);
    card.cancel.hidden = task.state === "finished";
    card.cancel.disabled = task.cancel_requested_at !== null;
    text(card.cancel, t(task.cancel_requested_at ? "task.cancel_requested" : "task.cancel"));
    show(card, task);
  }

  list.onpointerleave = draw;
  list.addEventListener("focusout", () => requestAnimationFrame(() => signal.aborted || draw()));
  window.addEventListener("scroll", () => isAtTop() && draw(), { signal, passive: true });
  store.subscribe(tables, draw, signal);
  if (moment() === null) every(TICK_MS, draw, signal);
  return { draw, has: (/** @type {TaskRow} */ task) => ids.includes(task.task_id) };
}

const isAtTop = () => window.scrollY < AT_TOP_PX;

/** @param {HTMLButtonElement} button @param {TaskRow | undefined} task @param {Api} api */
async function cancelTask(button, task, api) {
  if (!task) return;
  const isCancelled = await askCancel(task, { running: atWorkOf(task.counts), basic: 0 }); // its hosts are not known here
  if (isCancelled) act(button, () => api.post(`${taskPath(task.task_id)}/cancel`));
}
