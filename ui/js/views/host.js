// One host: how it is and why, what it is, what waits for it, and what happened to it.
/** @import {AuditEvent, Context, Host, LiftQuarantine, Mount, Params, Parts} from "../app.js" */
import { visible } from "../ansi.js";
import { Problem, during } from "../api.js";
import { ask, badge, output, reasonField, time, timeNode } from "../components.js";
import { act, attempt, copyButton, create, facts, make, permit, successive, text } from "../dom.js";
import { bytes, duration, percent, when } from "../format.js";
import { because, language, t } from "../i18n.js";
import { nearest, partsOf } from "../nearest.js";
import { hostPath, link, moment } from "../router.js";
import { historyOf } from "./history.js";
import { hostActions, linesOf } from "./hostactions.js";
import { tasksOf } from "./hosttasks.js";

const SKEWED_S = 120; // as much as an agent allows for when a command has expired
const MOST_NEAREST = 5;
const START = "control-plane-agent run";
const LIVE = new Set(["usage_pos", "last_heartbeat_at", "cpu_usage", "memory_usage", "disk_usage", "load", "uptime", "running", "clock_ahead_s"]);

/** A link may lead from one host to another: the page is then made anew. @type {Mount<"host">} */
export function mount(part, params, context) {
  const nextSignal = successive(context.signal);
  /** @type {{hostname: string | undefined, show: ReturnType<typeof showHost>} | null} */
  let shown = null;

  /** @param {Params} next */
  function update(next) {
    const { hostname = "" } = next;
    if (shown?.hostname !== hostname) {
      const signal = nextSignal();
      const own = shown ? make("host") : part;
      if (shown) part.root.replaceChildren(...own.root.childNodes);
      shown = { hostname, show: showHost(own, hostname, { ...context, signal, api: during(signal) }) };
    }
    shown.show(next.range);
  }
  update(params);
  return { update };
}

/** Gives what shows a range of its history.
 * @param {Parts["host"]} part @param {string} hostname @param {Context} context */
function showHost(part, hostname, context) {
  const { api, store, stream, signal, user } = context;
  const url = hostPath(hostname);
  const may = (/** @type {string} */ permission) => user.permissions.includes(permission);
  context.title(hostname);
  text(part.name, hostname);
  part.copy.append(copyButton(hostname, t("host.name")));
  part.run.href = link("/run", { host: hostname });
  const mayTrust = permit(part.trust, user, "hosts.revoke");
  const drawActions = hostActions(part, hostname, context);
  const history = historyOf(part, hostname, context);
  const readTasks = tasksOf(part, hostname, context, (asOf, topics) => {
    stream.follow(topics, asOf, signal, load);
    if (moment() === null) attempt(part.page, () => readAsOf(asOf));
  });
  let drawn = "";
  let heard = -1;
  let state = "";
  let isRead = false;

  function draw() {
    const host = store.one("hosts", hostname);
    if (!host) return;
    if (host.usage_pos !== heard) drawNow(host);
    heard = host.usage_pos;
    const lasting = JSON.stringify(host, (name, value) => (LIVE.has(name) ? undefined : value));
    if (lasting === drawn) return; // what is being copied stays as it is
    drawn = lasting;
    badge(part.state, "host", host.state);
    if (host.maintenance) badge(part.mark, "mark", "maintenance");
    else part.mark.replaceChildren();
    const since = when(host.state_since_at, stream.now(), language);
    part.cause.replaceChildren(visible(t("host.since", { cause: because(host.state_cause) ?? "–", since })), " · ", timeNode(host.state_since_at));
    part.quarantine.hidden = !host.quarantine;
    part.trust.disabled = !host.quarantine || !mayTrust;
    if (host.quarantine) part.why.replaceChildren(visible(because(host.quarantine.reason)), " · ", timeNode(host.quarantine.since));
    drawActions(host);
    drawAbout(host);
    drawFacts(host);
    if (state && state !== host.state) history.load();
    state = host.state;
  }

  /** @param {Host} host */
  function drawAbout(host) {
    part.about.hidden = !["pending", "retired", "revoked"].includes(host.state);
    if (part.about.hidden) return;
    if (host.state !== "pending") return part.about.replaceChildren(create("p", t(host.state === "retired" ? "host.is_retired" : "host.is_revoked")));
    const command = create("div", "", { className: "row" });
    command.append(output(START), copyButton(START, t("run.command")));
    part.about.replaceChildren(create("strong", t("host.is_pending")), create("p", t("host.pending_do")), command, create("p", t("host.pending_lost")));
  }

  /** @param {Host} host */
  function drawFacts(host) {
    const names = (/** @type {string[] | null} */ values) => values?.join(", ") || "–";
    facts(part.facts, "host", {
      groups: host.drift ? t("host.drifts", { assigned: names(host.groups), bound: names(host.groups_bound) }) : names(host.groups),
      labels: linesOf(host.labels).replaceAll("\n", ", "),
      addresses: host.addresses?.length ? copied(names(host.addresses), t("host.addresses")) : null,
      os: [host.os, host.kernel].filter(Boolean).join(" · "),
      cpus: host.cpu_count && `${host.cpu_count} · ${bytes(host.memory_bytes)}`,
      agent: host.basic ? t("host.basic") : host.agent_version,
      runs_as: host.runs_as && t("host.runs_as_only", { account: host.runs_as }),
      unlimited: host.limits_missing && t("host.unlimited_what", { what: host.limits_missing.join(", ") }),
      registered: timeNode(host.registered_at),
    });
    facts(part.more, "host", {
      boot: host.boot_id && copied(host.boot_id, t("host.boot")),
      key: host.key_id && copied(host.key_id, t("host.key")),
    });
    part.fold.hidden = !part.more.hasChildNodes();
  }

  /** @param {Host} host */
  function drawNow(host) {
    const heard = host.last_heartbeat_at;
    const aged = (/** @type {string | number | null | undefined} */ value) => (value == null || value === "" ? null : agedNode(value, heard));
    facts(part.now, "host", {
      heartbeat: heard ? timeNode(heard) : t("host.never"),
      exact: host.exact_from && when(host.exact_from, stream.now(), language),
      cpu: aged(percent(host.cpu_usage)),
      memory: aged(percent(host.memory_usage)),
      disk: aged(percent(host.disk_usage)),
      load: aged(host.load?.join("  ")),
      clock: clockOf(host),
      uptime: aged(host.uptime && duration(host.uptime * 1000)),
      running: aged(host.running),
    });
  }

  async function trust() {
    const answer = await ask({ words: "host.trust", title: t("host.trust_title", { name: hostname }), fields: [reasonField(true)] });
    if (answer) act(part.trust, () => api.post(`${url}/lift-quarantine`, /** @type {LiftQuarantine} */ (answer)));
  }

  const load = () => attempt(part.page, read);

  async function read() {
    let host = null;
    try {
      host = await api.get(url);
    } catch (error) {
      if (error instanceof Problem && error.code === "unknown_host") suggest();
      throw error;
    }
    stream.take("hosts", [host]);
    draw();
    history.load();
    readTasks();
    if (may("events.read") && !isRead) drawEvents();
    isRead = true;
  }

  /** What is followed from there on may have changed since it was read, which nothing would tell. @param {string} asOf */
  async function readAsOf(asOf) {
    stream.take("hosts", [await api.get(url, { min_seq: Number(/\d+/.exec(asOf)?.[0]) })]);
  }

  /** Beside what is wrong with the name: perhaps it was mistyped. */
  async function suggest() {
    const pages = await Promise.all(partsOf(hostname).map((part) => api.get("/hosts", { q: part }).catch(() => ({ items: [] }))));
    const names = nearest(hostname, pages.flatMap(({ items }) => items.map((host) => host.hostname)), MOST_NEAREST);
    const place = part.page.querySelector(":scope > .problem");
    if (!names.length || !place) return;
    const row = create("p", t("host.nearest"), { className: "row" });
    row.append(...names.map((name) => create("a", name, { href: hostPath(name) })));
    place.append(row);
  }

  async function drawEvents() {
    const { eventTable } = await import("./audit.js");
    if (!signal.aborted) eventTable(part.events, { hostname }, { ...context, own: { recorded_at: drawDelay } });
  }

  part.events.closest("section")?.toggleAttribute("hidden", !may("events.read"));
  part.trust.onclick = trust;
  store.keep("hosts", (row) => row.hostname === hostname, signal);
  store.keep("executions", (row) => row.hostname === hostname, signal);
  store.subscribe(["hosts"], draw, signal);
  load();
  return history.show;
}

/** @param {string} value @param {string} what */
function copied(value, what) {
  const place = create("span", "", { className: "copied" });
  const code = create("code");
  text(code, value);
  place.append(code, " ", copyButton(value, what));
  return place;
}

/** @param {string | number} value @param {?string} at */
function agedNode(value, at) {
  const [place, age] = [create("span", `${visible(value)} · `), create("span", "", { className: "muted small" })];
  time(age, at);
  place.append(age);
  return place;
}

/** How long after the one below it. @param {AuditEvent} event @param {HTMLElement} cell @param {AuditEvent} [before] */
function drawDelay(event, cell, before) {
  if (!cell.firstElementChild) cell.append(create("span"), create("span", "", { className: "small muted delay" }));
  const [when, delay] = cell.children;
  time(when, event.recorded_at);
  text(delay, before ? `+${duration(Math.max(0, Date.parse(event.recorded_at) - Date.parse(before.recorded_at)))}` : "");
}

/** @param {Host} host */
function clockOf({ clock_ahead_s: ahead }) {
  return ahead !== null && Math.abs(ahead) > SKEWED_S ? t(ahead > 0 ? "host.clock_ahead" : "host.clock_behind", { by: duration(Math.abs(ahead) * 1000) }) : null;
}
