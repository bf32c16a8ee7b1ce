// One host: how it is and why, what it is, and what ran on it.
import { visible } from "../ansi.js";
import { ask, badge, reasonField, rowsOf, timeNode } from "../components.js";
import { act, attempt, create, every, facts, permit, text } from "../dom.js";
import { bytes, duration, percent } from "../format.js";
import { because, t } from "../i18n.js";
import { hostPath, link } from "../router.js";
import { tasksOf } from "./tasks.js";

const HOUR_MS = 3_600_000;
const SKEWED_S = 120; // as much as an agent allows for when a command has expired
const MOST_BEATS = 15;
const HEARTBEATS_MS = 10_000;

export function mount(part, { hostname }, context) {
  const { api, store, stream, signal, user } = context;
  context.title(hostname);
  text(part.name, hostname);
  part.run.href = link("/run", { host: hostname });
  const mayTrust = permit(part.trust, user, "hosts.revoke");
  const url = hostPath(hostname);
  let isPolling = false;
  const beats = rowsOf(part.beats, "at");

  function draw() {
    const host = store.one("hosts", hostname);
    if (!host) return;
    badge(part.state, "host", host.state);
    part.run.hidden = ["revoked", "retired"].includes(host.state);
    part.quarantine.hidden = !host.quarantine;
    part.trust.disabled = !host.quarantine || !mayTrust;
    if (host.quarantine) part.why.replaceChildren(visible(because(host.quarantine.reason)), " · ", timeNode(host.quarantine.since));
    part.cause.replaceChildren(visible(because(host.state_cause)), " · ", timeNode(host.state_since_at));
    facts(part.facts, "host", {
      groups: host.groups.join(", ") || "–",
      drift: host.drift ? (host.groups_bound ?? []).join(", ") || "–" : null,
      addresses: host.addresses?.join(", "),
      os: [host.os, host.kernel].filter(Boolean).join(" · "),
      cpus: host.cpu_count && `${host.cpu_count} · ${bytes(host.memory_bytes)}`,
      agent: host.basic ? t("host.basic") : host.agent_version,
      registered: timeNode(host.registered_at),
      key: create("code", host.key_id),
    });
    facts(part.now, "host", {
      heartbeat: host.last_heartbeat_at ? timeNode(host.last_heartbeat_at) : t("host.never"),
      cpu: percent(host.cpu_usage),
      memory: percent(host.memory_usage),
      disk: percent(host.disk_usage),
      load: host.load?.join("  "),
      clock: clockOf(host),
      runs_as: host.runs_as && t("host.runs_as_only", { account: host.runs_as }),
      unlimited: host.limits_missing && t("host.unlimited_what", { what: host.limits_missing.join(", ") }),
      uptime: host.uptime && duration(host.uptime * 1000),
      running: host.running,
    });
  }

  async function trust() {
    const answer = await ask({ words: "host.trust", title: t("host.trust_title", { name: hostname }), fields: [reasonField(true)] });
    if (answer) act(part.trust, () => api.post(`${url}/lift-quarantine`, answer));
  }

  async function drawHeartbeats() {
    const from = new Date(stream.now() - HOUR_MS).toISOString();
    const { items } = await api.get(`${url}/heartbeats`, { from, points: 300 });
    for (const name of ["cpu", "memory"]) part.chart.querySelector(`.${name}`).setAttribute("d", path(items, `${name}_usage`, Date.parse(from)));
    text(part.range, t("host.range", { n: items.length }));
    beats.draw(items.slice(-MOST_BEATS).reverse());
  }

  const load = () => attempt(part.page, read);
  const loadHeartbeats = () => attempt(part.history, drawHeartbeats);

  async function read() {
    const host = await api.get(url);
    stream.take("hosts", [host]);
    draw();
    loadHeartbeats();
    if (!isPolling) every(HEARTBEATS_MS, loadHeartbeats, signal);
    isPolling = true;
  }

  part.trust.onclick = trust;
  store.subscribe(["hosts"], draw, signal);
  load();
  tasksOf(part.tasks, hostname, context, (asOf) => stream.follow([`host:${hostname}`], asOf, signal, load));
}

function clockOf({ clock_ahead_s: ahead }) {
  return Math.abs(ahead) > SKEWED_S ? t(ahead > 0 ? "host.clock_ahead" : "host.clock_behind", { by: duration(Math.abs(ahead) * 1000) }) : null;
}

/** Where a minute is missing there is a gap. */
function path(items, field, since) {
  return items
    .map((beat, place) => {
      const at = Date.parse(beat.at);
      const command = at - Date.parse(items[place - 1]?.at) <= 60_000 ? "L" : "M";
      return `${command}${(((at - since) / HOUR_MS) * 300).toFixed(1)} ${(89 - beat[field] * 88).toFixed(1)}`;
    })
    .join("");
}
