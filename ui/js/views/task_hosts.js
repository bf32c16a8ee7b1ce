// Each host of a task in a row: those that somebody has to look at first, a part of them at a time.
/** @import {Context, Execution, Parts, TaskView} from "../app.js" */
import { printed, visible } from "../ansi.js";
import { anchor, badge, rowsOf } from "../components.js";
import { attempt, options, text } from "../dom.js";
import { because, t } from "../i18n.js";
import { attention, by } from "../states.js";
import { delaysOf } from "../delays.js";
import { pager } from "./pager.js";
import { brief, reasonText } from "./task_words.js";

const ROWS = 100;

/** @param {Parts["task"]} part @param {TaskView} view @param {Context} context */
export function hostRows(part, view, { api, user, signal }) {
  const rows = rowsOf(part.executions, "hostname", {
    state: drawState,
    hostname: ({ hostname }, cell) => anchor(cell, view.address({ host: hostname }), hostname),
    waited: (row) => timeText(delaysOf(row).queued),
    ran: ranText,
    first_line: (row) => reasonText(row) || printed(row.first_line ?? ""),
  });
  const pages = pager(ROWS, () => draw(view.executions()));
  part.pages.replaceWith(pages.root);
  /** @type {Map<string, Set<string>>} */
  const members = new Map(); // hostnames by group, as far as they were asked for
  /** @type {string[]} */
  let order = [];
  let chosen = "";
  let hasAskedForGroups = false;

  /** @param {Execution[]} executions */
  function draw(executions) {
    const { state, group } = view.params();
    if (!hasAskedForGroups && executions.length > 1 && user.permissions.includes("hosts.read")) readGroups();
    if (group && !members.has(group)) readMembers(group);
    part.group.value = group ?? "";
    const isOther = chosen !== (chosen = `${state}/${group}`);
    if (isOther) pages.goTo(0);
    const states = state?.split(",");
    const wanted = executions.filter((row) => (!states || states.includes(row.state)) && (!group || members.get(group)?.has(row.hostname)));
    const sorted = isOther || !isInUse() ? inOrder(wanted) : asBefore(wanted);
    order = sorted.map(({ hostname }) => hostname);
    const { from, to } = pages.of(sorted.length);
    rows.draw(sorted.slice(from, to));
    part.chosen.hidden = !states;
    text(part.chosenWords, states?.map((each) => t(`state.execution.${each}`)).join(", "));
    part.none.hidden = sorted.length > 0 || !executions.length;
  }

  /** Nothing moves under the pointer, or from under the focus. */
  const isInUse = () => part.executions.matches(":hover, :focus-within");

  /** @param {Execution[]} wanted */
  function asBefore(wanted) {
    const left = new Map(wanted.map((row) => [row.hostname, row]));
    const kept = order.flatMap((hostname) => left.get(hostname) ?? []);
    for (const { hostname } of kept) left.delete(hostname);
    return [...kept, ...inOrder([...left.values()])];
  }

  async function readGroups() {
    hasAskedForGroups = true;
    await attempt(part.filters, async () => {
      const { items } = await api.get("/groups");
      options(part.group, ["", ...items.map(({ group }) => group)], (group) => group || t("fleet.all_groups"));
      part.group.hidden = items.length === 0;
      part.group.value = view.params().group ?? "";
    });
  }

  /** @param {string} group */
  async function readMembers(group) {
    const found = new Set();
    members.set(group, found);
    await attempt(part.filters, async () => {
      /** @type {string | null | undefined} */
      let cursor;
      do {
        const page = await api.get("/hosts", { group, limit: 1000, cursor });
        for (const { hostname } of page.items) found.add(hostname);
        cursor = page.next_cursor;
      } while (cursor && !signal.aborted);
      draw(view.executions());
    });
  }

  part.group.onchange = () => view.go({ group: part.group.value });
  part.clear.onclick = () => view.go({ state: null });
  return { draw };
}

/** @param {Execution[]} rows */
function inOrder(rows) {
  const byState = Map.groupBy(rows, (row) => row.state);
  const states = [...byState].sort(([a], [b]) => attention(a) - attention(b));
  return states.flatMap(([, some]) => some.sort(by("hostname")));
}

/** @param {Execution} row @param {HTMLElement} cell */
function drawState(row, cell) {
  badge(cell, "execution", row.state);
  cell.title = row.reason ? visible(because(row.reason)) : "";
}

/** @param {?number} ms */
const timeText = (ms) => (ms === null ? "" : brief(ms));

/** @param {Execution} row */
function ranText(row) {
  const { ran, answered } = delaysOf(row);
  return timeText(ran ?? answered);
}
