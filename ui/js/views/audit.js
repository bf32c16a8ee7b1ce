// What happened: every event, with all that was recorded of it.
import { output } from "../components.js";
import { attempt, create, facts, filtersOf, make, only, successive } from "../dom.js";
import { absolute } from "../format.js";
import { language, t } from "../i18n.js";
import { hostPath, taskPath } from "../router.js";
import { newestFirst } from "./newest.js";

const FILTERS = ["kind", "hostname", "actor"];

export function mount(part, params, context) {
  const nextSignal = successive(context.signal);
  const filters = filtersOf(part, "/audit", FILTERS, context.navigate, "onchange");

  function update(next) {
    const filter = Object.fromEntries(FILTERS.map((name) => [name, next[name]]));
    filters.show(filter);
    eventTable(part.list, filter, { ...context, signal: nextSignal() });
  }
  update(params);
  return { update };
}

export function eventTable(place, filter, context) {
  const isWanted = ({ kind, ...event }) =>
    ["task_id", "hostname", "actor"].every((name) => !filter[name] || event[name] === filter[name]) && (!filter.kind || `${kind}.`.startsWith(`${filter.kind}.`));

  function drawPosition({ seq }, cell) {
    if (cell.firstElementChild) return;
    const button = only(cell, "button");
    Object.assign(button, { className: "plain mono", ariaExpanded: "false", textContent: seq, onclick: () => toggle(button, seq) });
  }

  function drawAbout({ hostname, task_id: taskId }, cell) {
    if (cell.hasChildNodes()) return;
    const links = [hostname && [hostPath(hostname), hostname], taskId && !filter.task_id && [taskPath(taskId), t("audit.task")]].filter(Boolean);
    for (const [href, words] of links) cell.append(cell.hasChildNodes() ? " · " : "", create("a", words, { href }));
  }

  async function toggle(button, seq) {
    const row = button.closest("tr");
    const isOpen = row.nextElementSibling?.classList.contains("detail");
    button.ariaExpanded = String(!isOpen);
    if (isOpen) return row.nextElementSibling.remove();
    const detail = make("event-detail");
    detail.root.dataset.of = seq;
    row.after(detail.root);
    attempt(detail.cell, async () => drawDetail(detail, await context.api.get(`/events/${seq}`)));
  }

  function drawDetail(detail, event) {
    facts(detail.facts, "audit", {
      recorded: absolute(event.recorded_at, language),
      occurred: event.occurred_at && absolute(event.occurred_at, language),
      task_id: event.task_id,
      key: event.key_id,
      signature: event.signature,
    });
    detail.body.replaceWith(output(JSON.stringify(event.body, null, 2)));
  }

  const shows = { seq: drawPosition, kind: ({ kind, outcome }) => (outcome ? `${kind} · ${outcome}` : kind), about: drawAbout };
  newestFirst(place, context, { from: "events", head: "event-head", shows, isWanted, none: [t("audit.none")], query: () => filter }).load();
}
