// What happened: every event, newest first, each with all that was recorded of it.
import { empty, output, time } from "../components.js";
import { attempt, create, facts, keyedList, make, refs, text } from "../dom.js";
import { absolute } from "../format.js";
import { language } from "../i18n.js";
import { link } from "../router.js";

const PAGE = 100;

export function mount(root, params, context) {
  const { t, title, navigate } = context;
  title(t("shell.audit"));
  const part = make("audit");
  root.replaceChildren(part.root);
  let filter = {};
  let controller = null;
  for (const name of ["kind", "hostname", "actor"]) {
    part[name].placeholder = t(`audit.${name}`);
    part[name].setAttribute("aria-label", t(`audit.${name}`));
    part[name].addEventListener("change", () => navigate(link("/audit", { ...filter, [name]: part[name].value.trim() })));
  }

  function update(next) {
    filter = { kind: next.kind, hostname: next.hostname, actor: next.actor };
    for (const name of ["kind", "hostname", "actor"]) part[name].value = filter[name] ?? "";
    controller?.abort();
    controller = new AbortController();
    context.signal.addEventListener("abort", () => controller.abort());
    eventTable(part.list, filter, { ...context, signal: controller.signal });
  }
  update(params);
  return { update };
}

/** The events that a filter lets through; new ones wait behind a counted button unless the page is at its top. */
export function eventTable(place, filter, { api, store, stream, signal, t }) {
  const part = make("event-table");
  place.replaceChildren(part.root);
  let top = 0; // events up to here are shown
  let bottom = Infinity;
  let cursor = null;
  let isFollowing = false;

  const isWanted = (event) =>
    (!filter.task_id || event.task_id === filter.task_id) &&
    (!filter.hostname || event.hostname === filter.hostname) &&
    (!filter.actor || event.actor === filter.actor) &&
    (!filter.kind || event.kind === filter.kind || event.kind.startsWith(`${filter.kind}.`));

  function draw() {
    const events = store.all("events").filter((event) => isWanted(event) && event.seq >= bottom).sort((a, b) => b.seq - a.seq);
    if (window.scrollY < 40 && events.length) top = Math.max(top, events[0].seq);
    const waiting = events.filter((event) => event.seq > top).length;
    part.news.hidden = waiting === 0;
    text(part.news, t("shell.news", { n: waiting }));
    const open = new Map([...part.rows.querySelectorAll(".detail")].map((element) => [element.dataset.of, element]));
    for (const element of open.values()) element.remove();
    keyedList(part.rows, events.filter((event) => event.seq <= top), (event) => event.seq, createRow, updateRow);
    for (const [seq, element] of open) part.rows.querySelector(`[data-key="${seq}"]`)?.after(element);
    part.empty.hidden = events.length > 0;
    if (!events.length) empty(part.empty, t("audit.none"));
  }

  function createRow(event) {
    const row = make("event-row");
    row.seq.addEventListener("click", () => toggle(row, event.seq));
    return row.root;
  }

  function updateRow(element, event) {
    const row = refs(element);
    text(row.seq, String(event.seq));
    time(row.when, event.recorded_at);
    text(row.kind, event.outcome ? `${event.kind} · ${event.outcome}` : event.kind);
    text(row.who, event.actor);
    if (!row.about.childElementCount) row.about.append(...links(event));
  }

  function links(event) {
    const found = [];
    if (event.hostname) found.push(anchor(`/hosts/${encodeURIComponent(event.hostname)}`, event.hostname));
    if (event.task_id && !filter.task_id) found.push(anchor(`/tasks/${encodeURIComponent(event.task_id)}`, t("audit.task")));
    return found.flatMap((element, place) => (place ? [" · ", element] : [element]));
  }

  const anchor = (href, textContent) => create("a", { href, textContent });

  async function toggle(row, seq) {
    const next = row.root.nextElementSibling;
    const isOpen = next?.classList.contains("detail");
    row.seq.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) return next.remove();
    const detail = make("event-detail");
    detail.root.classList.add("detail");
    detail.root.dataset.of = seq;
    row.root.after(detail.root);
    attempt(detail.cell, async () => drawDetail(detail, await api.get(`/events/${seq}`, { signal })));
  }

  function drawDetail(detail, event) {
    facts(detail.facts, [
      [t("audit.recorded"), absolute(event.recorded_at, language)],
      [t("audit.occurred"), event.occurred_at && absolute(event.occurred_at, language)],
      [t("task.id"), event.task_id],
      [t("audit.key"), event.key_id],
      [t("audit.signature"), event.signature],
    ]);
    detail.body.replaceWith(output(JSON.stringify(event.body, null, 2), false));
  }

  const load = (from = null) => attempt(part.root, () => read(from));

  async function read(from) {
    const page = await api.get("/events", { query: { ...filter, limit: PAGE, cursor: from }, signal });
    cursor = page.next_cursor;
    bottom = cursor && page.items.length ? page.items.at(-1).seq : 0;
    if (!from && page.items.length) top = page.items[0].seq;
    stream.take("events", page.items);
    part.more.hidden = !cursor;
    draw();
    if (!isFollowing) stream.follow(["events"], page.as_of, signal, load);
    isFollowing = true;
  }

  part.more.addEventListener("click", () => load(cursor));
  part.news.addEventListener("click", () => {
    top = Infinity;
    draw();
    top = Math.max(0, ...store.all("events").map((event) => event.seq));
  });
  store.subscribe(["events"], draw, signal);
  load();
}
