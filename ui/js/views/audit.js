// What happened: every event, with all that was recorded of it; and the way to look at everything as it was then.
/** @import {Api, AuditEvent, Context, Mount, Own, Params, Parts, Shows, WholeEvent} from "../app.js" */
import { badge, output, said, timeNode } from "../components.js";
import { act, attempt, copyButton, create, every, facts, filtersOf, make, only, permit, successive, text } from "../dom.js";
import { absolute, fromField, toField } from "../format.js";
import { language, t } from "../i18n.js";
import { atMoment, hostPath, link, moment, taskPath } from "../router.js";
import { newestFirst } from "./newest.js";

const IDS = /** @type {const} */ (["task_id", "hostname", "actor"]);
const WORDS = /** @type {const} */ (["kind", ...IDS]);
const TIMES = /** @type {const} */ (["from", "to"]);
const FORMATS = /** @type {const} */ (["ndjson", "csv"]);
const MOST = 500; // rows at once
const CHECKPOINT_MS = 10_000;
const DAMAGE_MS = 30_000;
const VERIFY = "control-plane audit verify";
const CHECK = "control-plane audit check --key KEY FILE";

const REFUSALS = ["access.denied", "approval.refused", "host.request_refused", "login.failed", "message.rejected"];
const FAMILIES = "access approval checkpoint enrolment_token key log login passkey rule secret session stop template token user".split(" ");
const SECURITY = /^(execution\.conflict$|host\.(key|quarantine|registered|revoked))/;

/** @type {Mount<"audit">} */
export function mount(part, params, context) {
  const { navigate, user, signal } = context;
  const nextSignal = successive(signal);
  const filters = filtersOf(part, "/audit", WORDS, navigate, "onchange");
  let drawn = ""; // the filter
  /** @type {?ReturnType<typeof eventTable>} */
  let table = null;
  let isPolling = moment() !== null;

  /** @param {Params} next */
  async function update({ seq, ...next }) {
    const filter = Object.fromEntries([...WORDS, ...TIMES].map((name) => [name, next[name] || undefined]));
    filters.show(filter);
    for (const name of TIMES) part[name].value = toField(filter[name]);
    for (const format of FORMATS) part[format].href = link("/api/v1/events/export", { ...filter, format, at: moment() });
    const address = link("/audit", filter);
    if (address !== drawn) table = eventTable(part.list, filter, { ...context, signal: nextSignal() }, { most: MOST, open });
    const isNew = address !== drawn;
    drawn = address;
    await table?.loaded;
    if (address === drawn) drawOpen(Number(seq), address, isNew);

    /** @param {?number} wanted */
    function open(wanted) {
      navigate(link("/audit", { ...filter, seq: wanted }));
    }
  }

  /** The event that the address names is below its row; one that the list does not have is above it.
   * @param {number} seq @param {string} address @param {boolean} isNew */
  function drawOpen(seq, address, isNew) {
    const row = table?.show(seq);
    if (row && isNew) row.scrollIntoView({ block: "center" });
    const isAbove = seq && !row;
    if (isAbove && part.record.dataset.of === String(seq)) return;
    part.record.dataset.of = isAbove ? String(seq) : "";
    part.record.replaceChildren();
    if (!isAbove) return;
    const panel = make("event-record");
    text(panel.title, t("audit.event", { seq }));
    panel.close.href = address;
    part.record.append(panel.root);
    drawEvent(panel.place, seq, context);
  }

  async function readCheckpoint() {
    const found = await context.api.get("/audit/checkpoint");
    const list = only(part.checkpoint, "dl");
    list.className = "facts";
    facts(list, "audit", {
      signed: moment() ? absolute(found.recorded_at, language) : timeNode(found.recorded_at),
      size: found.size.toLocaleString(language),
      root: copied(found.root),
      origin: found.origin,
      verify: copied(VERIFY),
      check: copied(CHECK),
    });
  }

  for (const name of TIMES) part[name].onchange = () => filters.change({ [name]: fromField(part[name].value) });
  for (const format of FORMATS) if (!user.permissions.includes("events.export")) permit(part[format], user, "events.export");
  part.past.hidden = moment() !== null; // there is the bar
  part.past.onclick = async () => (await import("../replay.js")).askForMoment(context);
  const load = () => part.proof.open && attempt(part.checkpoint, readCheckpoint);
  part.proof.ontoggle = () => {
    load();
    if (!isPolling) every(CHECKPOINT_MS, load, signal);
    isPolling = true;
  };
  showDamage(part, context);
  update(params);
  return { update };
}

/** What is wrong with the log concerns every moment of it. @param {Parts["audit"]} part @param {Context} context */
function showDamage(part, { api, signal }) {
  const place = create("section", "", { className: "alarm", role: "alert", hidden: true });
  part.proof.before(place);
  let drawn = "[]";

  async function read() {
    if (document.hidden) return;
    const { items } = await api.look("/audit/damage");
    if (JSON.stringify(items) === drawn) return;
    drawn = JSON.stringify(items);
    place.hidden = !items.length;
    const found = items.map(({ log, seq, detail }) => create("p", t("audit.damage_at", { log, position: seq.toLocaleString(language), detail })));
    place.replaceChildren(create("strong", t("audit.damaged")), ...found, create("p", t("audit.damaged_do")), create("code", VERIFY));
  }
  const load = () => read().catch(() => {}); // the list below says that nothing can be read
  every(DAMAGE_MS, load, signal);
  load();
}

/** The events of a filter. What one of them has opens below it, unless `open` is told which is to be, or none.
 * @param {HTMLElement} place @param {Params} filter @param {Context & {own?: Own<AuditEvent>}} context
 * @param {{most?: number, open?: (seq: number | null) => void}} [how] */
export function eventTable(place, filter, context, { most, open } = {}) {
  let opened = 0;
  const rowOf = (/** @type {number} */ seq) => place.querySelector(`tr[data-key="${seq}"]`);
  const detailOf = (/** @type {number} */ seq) => place.querySelector(`tr[data-of="${seq}"]`);

  /** @param {AuditEvent} event */
  function isWanted({ kind, recorded_at: at, ...event }) {
    const isIts = IDS.every((name) => !filter[name] || event[name] === filter[name]);
    const isThen = (!filter.from || Date.parse(at) >= Date.parse(filter.from)) && (!filter.to || Date.parse(at) <= Date.parse(filter.to));
    return isIts && isThen && (!filter.kind || `${kind}.`.startsWith(`${filter.kind}.`));
  }

  /** @param {AuditEvent} event @param {HTMLElement} cell */
  function drawPosition({ seq }, cell) {
    if (cell.firstElementChild) return;
    const button = only(cell, "button");
    const isOpen = String(seq === opened);
    Object.assign(button, { className: "plain mono", ariaExpanded: isOpen, textContent: String(seq), onclick: () => toggle(seq) });
  }

  /** @param {AuditEvent} event @param {HTMLElement} cell */
  function drawKind({ kind, outcome }, cell) {
    if (cell.firstElementChild) return;
    const isSecurity = FAMILIES.includes(kind.split(".")[0]) || SECURITY.test(kind);
    const mark = REFUSALS.includes(kind) ? "refused" : isSecurity ? "security" : null;
    cell.append(create("span", outcome ? `${kind} · ${outcome}` : kind), " ");
    if (mark) badge(cell.appendChild(create("span")), "mark", mark);
  }

  /** @param {AuditEvent} event @param {HTMLElement} cell */
  function drawAbout({ hostname, task_id: taskId }, cell) {
    if (cell.hasChildNodes()) return;
    if (hostname) cell.append(create("a", hostname, { href: hostPath(hostname) }));
    if (taskId && !filter.task_id) cell.append(hostname ? " · " : "", create("a", t("audit.task"), { href: taskPath(taskId) }));
  }

  /** @param {number} seq */
  function toggle(seq) {
    if (open) open(detailOf(seq) ? null : seq);
    else setOpen(seq, !detailOf(seq));
  }

  /** @param {number} seq @param {boolean} isOpen */
  function setOpen(seq, isOpen) {
    rowOf(seq)?.querySelector("button")?.setAttribute("aria-expanded", String(isOpen));
    if (!isOpen) return detailOf(seq)?.remove();
    const row = create("tr", "", { className: "detail" });
    row.dataset.key = `of ${(row.dataset.of = String(seq))}`;
    const cell = row.appendChild(create("td", "", { className: "line", colSpan: 5 }));
    rowOf(seq)?.after(row);
    drawEvent(cell, seq, context);
  }

  /** Open just this one; its row, where the list has it. @param {number} seq */
  function show(seq) {
    if (opened && opened !== seq) setOpen(opened, false);
    opened = seq;
    const row = seq ? rowOf(seq) : null;
    if (row && !detailOf(seq)) setOpen(seq, true);
    return row;
  }

  /** @type {Shows<AuditEvent>} */
  const shows = { seq: drawPosition, kind: drawKind, about: drawAbout };
  const list = newestFirst(place, context, { from: "events", head: "event-head", shows, isWanted, none: [t("audit.none")], query: () => filter, most });
  return { show, loaded: list.load() };
}

/** @param {HTMLElement} place @param {number} seq @param {Context} context */
function drawEvent(place, seq, context) {
  const part = make("event-detail");
  place.append(part.root);
  attempt(place, async () => fillEvent(part, await context.api.get(`/events/${seq}`), context));
}

/** @param {Parts["event-detail"]} part @param {WholeEvent} event @param {Context} context */
function fillEvent(part, event, { api, user }) {
  const { seq, task_id: taskId, hostname } = event;
  facts(part.facts, "audit", {
    position: seq.toLocaleString(language),
    recorded: absolute(event.recorded_at, language),
    occurred: event.occurred_at && absolute(event.occurred_at, language),
    what: create("code", event.kind),
    outcome: event.outcome,
    version: event.schema_v,
    actor: event.actor,
    hostname: hostname && create("a", hostname, { href: hostPath(hostname) }),
    task_id: taskId && create("a", taskId, { href: taskPath(taskId) }),
    key: copied(event.key_id),
    signature: copied(event.signature),
  });
  if (event.body) part.body.replaceChildren(output(JSON.stringify(event.body, null, 2)));
  const { body_base64: body } = event;
  part.exact.hidden = body === null;
  part.sealed.hidden = body !== null;
  if (body !== null) part.exact.ontoggle = () => {
    const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
    const signed = new TextDecoder().decode(bytes);
    part.bytes.replaceChildren(said(signed), copyButton(signed, t("audit.exact")));
  };
  part.then.href = atMoment(String(seq));
  if (moment()) part.prove.after(create("span", t("audit.prove_now"), { className: "why small muted" }));
  if (!user.permissions.includes("audit.prove")) permit(part.prove, user, "audit.prove");
  else part.prove.onclick = () => act(part.prove, () => prove(part.prove, seq, api));
}

/** @param {HTMLButtonElement} button @param {number} seq @param {Api} api */
async function prove(button, seq, api) {
  const { proof } = await api.get(`/audit/proof/${seq}`);
  const href = URL.createObjectURL(new Blob([proof], { type: "text/plain" }));
  create("a", "", { href, download: `event-${seq}.proof` }).click();
  setTimeout(() => URL.revokeObjectURL(href));
  button.disabled = false;
}

/** What one may want elsewhere, to the letter. @param {?string} words */
function copied(words) {
  if (!words) return null;
  const place = create("span", "", { className: "row copied" });
  place.append(create("code", words), copyButton(words));
  return place;
}
