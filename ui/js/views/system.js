// Whether it is ready, how far each read table and each log have come, whether all is stopped.
import { ask, badge, meter, rowsOf, timeNode } from "../components.js";
import { attempt, create, every, facts, permit, text, toast } from "../dom.js";
import { duration, when } from "../format.js";
import { language, t, told } from "../i18n.js";
import { askStop } from "../notices.js";
import { link, moment } from "../router.js";
import { by } from "../states.js";

const CHECK_MS = 10_000;
const CHECKPOINT_MS = 60_000;
const TICK_MS = 1000;
const RATE_MS = 60_000; // events are counted over about as long
const LEAST_MS = 4_000; // a new stream tells of the heads twice at once
const LOGS = { event: "event", heartbeat: "heartbeat_event" }; // as the stream calls them, and as checkpoints do
const KINDS = { "message.rejected": "system.rejected", "execution.conflict": "system.conflicts", "execution.unexpected": "system.unexpected", "execution.late_result": "system.late", "access.denied": "system.denied" };

export function mount(part, params, context) {
  const { api, store, signal, user } = context;
  if (permit(part.stop, user, "stop.set")) part.stop.onclick = () => askStop("stop.stop", (body) => api.post("/stop", body));
  const drawStop = () => (part.stop.hidden = store.one("stop", "")?.stopped);
  store.subscribe(["stop"], drawStop, signal);
  drawStop();
  const drawLog = moment() === null ? showNow(part, context) : showThen(part);
  showProjections(part, context, drawLog);
}

function showNow(part, context) {
  part.kinds.append(...Object.entries(KINDS).map(([kind, words]) => create("a", t(words), { href: link("/audit", { kind }) })));
  part.kinds.hidden = !context.user.permissions.includes("events.read");
  showChecks(part, context);
  return showLog(part, context);
}

/** What is not kept is not shown of another moment. */
function showThen(part) {
  for (const place of [part.ready, part.logs]) place.closest("section").hidden = true;
  part.then.hidden = false;
  return () => {};
}

function showChecks(part, { api, store, stream, signal }) {
  const checks = rowsOf(part.checks, "name");
  let unreadSince = null;

  async function read() {
    try {
      const found = await api.readiness();
      unreadSince = null;
      draw(found);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      unreadSince ??= new Date(stream.now()).toISOString();
      say("failing", t("system.unreadable", { time: when(unreadSince, stream.now(), language) }));
      throw error;
    }
  }

  function draw({ status, checks: found }) {
    const failing = found.filter(({ state }) => state === "failing");
    checks.draw(found.sort((a, b) => rank(b) - rank(a)));
    const since = failing.map((check) => check.since).sort()[0];
    if (status === "ready") say("ok", t("system.ready"));
    else say("failing", t("system.not_ready", { time: since ? when(since, stream.now(), language) : "–" }));
  }

  const rank = ({ state }) => ["ok", "warning", "failing"].indexOf(state);
  const say = (state, words) => badge(part.readiness, "check", state, words);
  const load = () => attempt(part.ready, read);
  store.subscribe(["stop"], load, signal);
  every(CHECK_MS, load, signal);
  load();
}

function showProjections(part, { api, store, stream, signal, user }, drawLog) {
  const asked = new Set();
  const rebuilt = new Map(); // how far by the row before
  const lag = (row) => (row.lag_events ? `${row.lag_events} · ${duration(row.lag_seconds * 1000)}` : 0);
  const rows = rowsOf(part.projections, "name", { lag, rebuild: drawRebuild });

  function draw() {
    const found = store.all("projections").sort(by("name"));
    for (const row of found) follow(row);
    rows.draw(found);
    drawLog(found);
  }

  function follow({ name, rebuilt_events: done }) {
    if (done !== null) asked.delete(name);
    else if (rebuilt.get(name) != null) toast(t("system.rebuild_done", { name }));
    rebuilt.set(name, done);
  }

  function drawRebuild(row, cell) {
    if (!cell.firstElementChild) cell.append(button(row), create("span"));
    const place = cell.lastElementChild;
    const { name, rebuilt_events: done } = row;
    if (done === null) return text(place, asked.has(name) ? t("system.rebuild_asked") : "");
    if (!place.children.length) place.replaceChildren(create("span"), create("span", "", { className: "small muted" }));
    const n = eventsIn(row.head);
    meter(place.firstElementChild, n ? Math.min(1, done / n) : 0);
    text(place.lastElementChild, t("system.rebuilt", { done: numbered(done), n: numbered(n) }));
  }

  // Why not stands once, beside the heading.
  function button({ name }) {
    const made = part.why.appendChild(create("button", t("system.rebuild"), { ariaLabel: t("system.rebuild_one", { name }) }));
    if (permit(made, user, "projections.rebuild")) made.onclick = () => rebuild(name);
    return made;
  }

  async function rebuild(name) {
    await ask({ words: "system.rebuild", title: t("system.rebuild_one", { name }), submit: () => api.post(`/projections/${name}/rebuild`).then(() => asked.add(name)) });
    draw();
  }

  async function read() {
    const { items } = await api.get("/projections");
    for (const row of items) store.put("projections", row.name, 0, row);
    draw();
    // All of them are told again and again, so any newest position does.
    stream.follow(["system"], items.find((row) => row.name === "hosts").position, signal, null);
  }

  store.subscribe(["projections"], draw, signal);
  attempt(part.tables, read);
}

/** Gives what takes the heads that the read tables know, until the stream tells of newer ones. */
function showLog(part, { api, stream, signal, user }) {
  const samples = []; // of the heads
  let heads = null;
  let signed = {};
  let shown = "";

  function draw(projections = []) {
    heads ??= headsIn(projections);
    sample();
    const rates = rateOf(samples);
    const key = JSON.stringify([heads, rates, signed]);
    if (!heads || key === shown) return;
    shown = key;
    facts(part.log, "system", {
      events: headText(heads.event, rates?.event),
      heartbeats: headText(heads.heartbeat, rates?.heartbeat),
      signed: signedNode(signed.event, heads.event),
      signed_heartbeats: signedNode(signed.heartbeat, heads.heartbeat),
      build: create("code", user.build),
      reference: create("a", "/api/docs", { href: "/api/docs" }),
    });
  }

  function sample() {
    const { ping } = stream.state;
    const at = Date.parse(ping?.now);
    if (!(at > (samples.at(-1)?.at ?? 0))) return;
    samples.push({ at, ...ping.heads });
    heads = { ...heads, ...ping.heads };
    while (samples.length > 2 && at - samples[0].at > RATE_MS) samples.shift();
  }

  async function readCheckpoints() {
    for (const [name, log] of Object.entries(LOGS)) {
      signed[name] = await api.get("/audit/checkpoint", { log }).catch((error) => {
        if (error.code !== "no_checkpoint") throw error;
        return { none: told(error) };
      });
    }
    draw();
  }

  every(TICK_MS, () => draw(), signal);
  if (user.permissions.includes("events.read")) {
    const load = () => attempt(part.logs, readCheckpoints);
    every(CHECKPOINT_MS, load, signal);
    load();
  } else part.logs.classList.add("filled");
  return draw;
}

/** The most that any read table has seen of each log. */
function headsIn(projections) {
  const all = projections.map(({ head }) => head.match(/\d+/g).map(Number));
  return all.length ? { event: Math.max(...all.map(([event]) => event)), heartbeat: Math.max(...all.map(([, heartbeat]) => heartbeat)) } : null;
}

const eventsIn = (position) => position.match(/\d+/g).reduce((sum, n) => sum + Number(n), 0);
const numbered = (n) => n.toLocaleString(language);

function rateOf(samples) {
  const [first, last] = [samples[0], samples.at(-1)];
  if (!last || last.at - first.at < LEAST_MS) return null;
  return Object.fromEntries(Object.keys(LOGS).map((name) => [name, ((last[name] - first[name]) * 1000) / (last.at - first.at)]));
}

function headText(head, rate) {
  if (head === undefined) return null;
  return Number.isNaN(rate ?? NaN) ? numbered(head) : t("system.head", { head: numbered(head), rate: rate.toFixed(rate < 10 ? 1 : 0) });
}

function signedNode(signed, head) {
  if (!signed || signed.none) return signed?.none;
  const place = create("span", `${t("system.covers", { size: numbered(signed.size), left: numbered(Math.max(0, head - signed.size)) })} · `);
  place.append(timeNode(signed.recorded_at));
  return place;
}
