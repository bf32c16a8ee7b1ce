// Whether it is ready, how far each read table and each log have come, whether all is stopped.
/** @import {Check, Context, Heads, Mount, Parts, Projection, Readiness, Rows, Sample, SetStop, Signed, System} from "../app.js" */
import { Problem, isAbort } from "../api.js";
import { ask, badge, meter, rowsOf, timeNode } from "../components.js";
import { attempt, create, every, facts, permit, text, toast } from "../dom.js";
import { duration, when } from "../format.js";
import { because, language, t, told } from "../i18n.js";
import { askStop } from "../notices.js";
import { moment } from "../router.js";
import { by } from "../states.js";
import { drawCounted, licencesOf, witnessesOf } from "./counted.js";

const CHECK_MS = 10_000;
const CHECKPOINT_MS = 60_000;
const TICK_MS = 1000;
const RATE_MS = 60_000; // events are counted over about as long
const LEAST_MS = 4_000; // a new stream tells of the heads twice at once
const LOGS = /** @type {const} */ ({ event: "event", heartbeat: "heartbeat_event" }); // as the stream calls them, and as checkpoints do
const NAMES = /** @type {(keyof Heads)[]} */ (Object.keys(LOGS));

/** @type {Mount<"system">} */
export function mount(part, params, context) {
  const { api, store, signal, user } = context;
  if (permit(part.stop, user, "stop.set")) part.stop.onclick = () => askStop("stop.stop", (body) => api.post("/stop", /** @type {SetStop} */ (body)));
  const drawStop = () => (part.stop.hidden = Boolean(store.one("stop", "")?.stopped));
  store.subscribe(["stop"], drawStop, signal);
  drawStop();
  const drawLog = moment() === null ? showNow(part, context) : showThen(part);
  showProjections(part, context, drawLog);
}

/** @param {Parts["system"]} part @param {Context} context */
function showNow(part, context) {
  part.kinds.hidden = !context.user.permissions.includes("events.read");
  showChecks(part, context);
  return showLog(part, context);
}

/** What is not kept is not shown of another moment. @param {Parts["system"]} part */
function showThen(part) {
  for (const place of [part.ready, part.logs]) place.closest("section")?.toggleAttribute("hidden", true);
  part.then.hidden = false;
  part.then.className = "panel note";
  return () => {};
}

/** @param {Parts["system"]} part @param {Context} context */
function showChecks(part, { api, store, stream, signal }) {
  /** @type {Rows<Check>} */
  const checks = rowsOf(part.checks, "name");
  let unreadSince = "";

  async function read() {
    try {
      const found = await api.readiness();
      unreadSince = "";
      draw(found);
    } catch (error) {
      if (isAbort(error)) throw error;
      unreadSince ||= new Date(stream.now()).toISOString();
      say("failing", t("system.unreadable", { time: when(unreadSince, stream.now(), language) }));
      throw error;
    }
  }

  /** @param {Required<Readiness>} readiness */
  function draw({ status, checks: found }) {
    const failing = found.filter(({ state }) => state === "failing");
    checks.draw(found.sort((a, b) => rank(b) - rank(a)));
    const since = failing.map((check) => check.since).sort()[0];
    if (status === "ready") say("ok", t("system.ready"));
    else say("failing", t("system.not_ready", { time: since ? when(since, stream.now(), language) : "–" }));
  }

  const rank = (/** @type {Check} */ { state }) => ["ok", "warning", "failing"].indexOf(state);
  const say = (/** @type {Check["state"]} */ state, /** @type {string} */ words) => badge(part.readiness, "check", state, words);
  const load = () => attempt(part.ready, read);
  store.subscribe(["stop"], load, signal);
  every(CHECK_MS, load, signal);
  load();
}

/** @param {Parts["system"]} part @param {Context} context @param {(found: Projection[]) => void} drawLog */
function showProjections(part, { api, store, stream, signal, user }, drawLog) {
  /** @type {Set<string>} */
  const asked = new Set();
  /** @type {Map<string, number | null>} */
  const rebuilt = new Map(); // how far by the row before
  const lag = (/** @type {Projection} */ row) => (row.lag_events ? `${row.lag_events} · ${duration(row.lag_seconds * 1000)}` : 0);
  const isNow = moment() === null;
  if (isNow) {
    const head = create("th", t("system.verified"));
    head.dataset.of = "verified";
    part.projections.rows[0].lastElementChild?.before(head);
  }
  const rows = rowsOf(part.projections, "name", { lag, rebuild: drawRebuild, verified: drawVerified });

  function draw() {
    const found = store.all("projections").sort(by("name"));
    for (const row of found) follow(row);
    rows.draw(found);
    drawLog(found);
  }

  /** @param {Projection} row */
  function follow({ name, rebuilt_events: done }) {
    if (done !== null) asked.delete(name);
    else if (rebuilt.get(name) != null) toast(t("system.rebuild_done", { name }));
    rebuilt.set(name, done);
  }

  /** @param {Projection} row @param {HTMLElement} cell */
  function drawRebuild(row, cell) {
    if (!cell.firstElementChild) cell.append(button(row));
    const place = cell.children[1] ?? cell.appendChild(create("span"));
    const { name, rebuilt_events: done } = row;
    if (done === null) return text(place, asked.has(name) ? t("system.rebuild_asked") : "");
    if (!place.children.length) place.replaceChildren(create("span"), create("span", "", { className: "small muted" }));
    const [far, words] = place.children;
    const n = eventsIn(row.head);
    meter(far, n ? Math.min(1, done / n) : 0);
    text(words, t("system.rebuilt", { done: numbered(done), n: numbered(n) }));
  }

  /** @param {Projection} row @param {HTMLElement} cell */
  function drawVerified({ verified }, cell) {
    if (!verified) return text(cell, t("system.unverified"));
    if (cell.dataset.at === verified.at) return;
    cell.dataset.at = verified.at;
    const { differed, failure, rows: n } = verified;
    const place = create("span");
    if (failure) badge(place, "check", "failing", t("system.verify_failed"));
    else if (differed.length) badge(place, "check", "failing", t("system.differed"));
    else badge(place, "check", "ok", t("system.same", { n }));
    const what = failure ? because(failure) : differed.join(", ");
    cell.replaceChildren(place, " ", what && `${what} · `, timeNode(verified.at));
  }

  // Why not stands once, beside the heading.
  /** @param {Projection} row */
  function button({ name }) {
    const made = part.why.appendChild(create("button", t("system.rebuild"), { ariaLabel: t("system.rebuild_one", { name }) }));
    if (permit(made, user, "projections.rebuild")) made.onclick = () => rebuild(name);
    return made;
  }

  /** @param {string} name */
  async function rebuild(name) {
    await ask({ words: "system.rebuild", title: t("system.rebuild_one", { name }), submit: () => api.post(`/projections/${name}/rebuild`).then(() => asked.add(name)) });
    draw();
  }

  async function read() {
    const { items } = await api.get("/projections");
    for (const row of items) store.put("projections", row.name, 0, row);
    draw();
    // All of them are told again and again, so any newest position does.
    const hosts = items.find((row) => row.name === "hosts");
    if (hosts) stream.follow(["system"], hosts.position, signal);
  }

  store.subscribe(["projections"], draw, signal);
  attempt(part.tables, read);
}

/** Gives what takes the heads that the read tables know, until the stream tells of newer ones.
 * @param {Parts["system"]} part @param {Context} context */
function showLog(part, { api, stream, signal, user }) {
  /** @type {Sample[]} */
  const samples = []; // of the heads
  /** @type {?Heads} */
  let heads = null;
  /** @type {{[name in keyof Heads]?: Signed}} */
  const signed = {};
  let shown = "";
  /** @type {?System} */
  let program = null;

  /** @param {Projection[]} [projections] */
  function draw(projections = []) {
    heads ??= headsIn(projections);
    sample();
    const rates = rateOf(samples);
    const key = JSON.stringify([heads, rates, signed, program?.version]);
    if (!heads || key === shown) return;
    shown = key;
    facts(part.log, "system", {
      events: headText(heads.event, rates?.event),
      heartbeats: headText(heads.heartbeat, rates?.heartbeat),
      signed: signedNode(signed.event, heads.event),
      signed_heartbeats: signedNode(signed.heartbeat, heads.heartbeat),
      witnesses: signed.event && "size" in signed.event && witnessesOf(signed.event),
      version: program?.version,
      build: create("code", user.build),
      reference: create("a", "/api/docs", { href: "/api/docs" }),
    });
  }

  function sample() {
    const { ping } = stream.state;
    const at = Date.parse(ping?.now ?? "");
    if (!ping || !(at > (samples.at(-1)?.at ?? 0))) return;
    samples.push({ at, ...ping.heads });
    heads = { ...heads, ...ping.heads };
    while (samples.length > 2 && at - samples[0].at > RATE_MS) samples.shift();
  }

  async function readCheckpoints() {
    for (const name of NAMES) {
      signed[name] = await api.get("/audit/checkpoint", { log: LOGS[name] }).catch((error) => {
        if (!(error instanceof Problem && error.code === "no_checkpoint")) throw error;
        return { none: told(error) };
      });
    }
  }

  async function read() {
    const [found] = await Promise.all([api.get("/system"), user.permissions.includes("events.read") && readCheckpoints()]);
    if (!program) part.log.after(licencesOf(api, found));
    program = found;
    drawCounted(part.kinds, found.counted);
    draw();
  }

  const load = () => attempt(part.logs, read);
  every(TICK_MS, () => draw(), signal);
  every(CHECKPOINT_MS, load, signal);
  load();
  return draw;
}

/** The most that any read table has seen of each log. @param {Projection[]} projections */
function headsIn(projections) {
  const all = projections.map(({ head }) => numbersIn(head));
  return all.length ? { event: Math.max(...all.map(([event]) => event)), heartbeat: Math.max(...all.map(([, heartbeat]) => heartbeat)) } : null;
}

/** @param {string} position */
const numbersIn = (position) => (position.match(/\d+/g) ?? []).map(Number);
/** @param {string} position */
const eventsIn = (position) => numbersIn(position).reduce((sum, n) => sum + n, 0);
/** @param {number} n */
const numbered = (n) => n.toLocaleString(language);

/** @param {Sample[]} samples @returns {Heads | null} */
function rateOf(samples) {
  const [first, last] = [samples[0], samples.at(-1)];
  if (!last || last.at - first.at < LEAST_MS) return null;
  const per = (/** @type {number} */ n) => (n * 1000) / (last.at - first.at);
  return { event: per(last.event - first.event), heartbeat: per(last.heartbeat - first.heartbeat) };
}

/** @param {number} [head] @param {number} [rate] */
function headText(head, rate) {
  if (head === undefined) return null;
  return rate === undefined || Number.isNaN(rate) ? numbered(head) : t("system.head", { head: numbered(head), rate: rate.toFixed(rate < 10 ? 1 : 0) });
}

/** @param {Signed | undefined} signed @param {number} head */
function signedNode(signed, head) {
  if (!signed || "none" in signed) return signed?.none;
  const place = create("span", `${t("system.covers", { size: numbered(signed.size), left: numbered(Math.max(0, head - signed.size)) })} · `);
  place.append(timeNode(signed.recorded_at));
  return place;
}
