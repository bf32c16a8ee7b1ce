// One host: how it is and why, what it is, and what ran on it.
import { visible } from "../ansi.js";
import { badge, time, timeNode } from "../components.js";
import { attempt, confirmDialog, create, facts, keyedList, make, permit, refs, text, toast } from "../dom.js";
import { bytes, duration, percent } from "../format.js";
import { because, told } from "../i18n.js";
import { link } from "../router.js";
import { taskTable } from "./task-table.js";

const HOUR_MS = 3_600_000;
const SKEWED_S = 120; // as much as an agent allows for when a command has expired
const MOST_BEATS = 15;
const MOST_TASKS = 10;
const HEARTBEATS_MS = 10_000;

function clockOf(host, t) {
  const ahead = host.clock_ahead_s ?? 0;
  const by = duration(Math.abs(ahead) * 1000);
  return Math.abs(ahead) > SKEWED_S ? t(ahead > 0 ? "host.clock_ahead" : "host.clock_behind", { by }) : null;
}

export function mountHost(root, { hostname }, context) {
  const { api, store, stream, signal, t, title, user } = context;
  title(hostname);
  const part = make("host");
  root.replaceChildren(part.root);
  text(part.name, hostname);
  part.chart.setAttribute("aria-label", t("host.chart"));
  part.run.href = link("/run", { host: hostname });
  const mayTrust = permit(part.trust, user, "hosts.revoke");
  const taskIds = new Set(); // of its tasks as they were read; those that come have an execution of it
  let oldest = 0;
  let isFollowing = false;
  const isItsOwn = (task) => taskIds.has(task.task_id) || store.one("executions", `${task.task_id}/${hostname}`) !== undefined;
  const table = taskTable(part.tasks, context, {
    filter: (task) => task.seq >= oldest && isItsOwn(task),
    tables: ["tasks", "executions"],
    emptyText: t("host.no_tasks"),
  });

  function draw() {
    const host = store.one("hosts", hostname);
    if (!host) return;
    badge(part.state, "host", host.state);
    part.run.hidden = host.state === "revoked" || host.state === "retired";
    drawQuarantine(host.quarantine);
    part.cause.replaceChildren(visible(because(host.state_cause ?? "")), " · ", timeNode(host.state_since_at));
    facts(part.facts, [
      [t("fleet.groups"), host.groups.join(", ") || "–"],
      [t("host.drift"), host.drift ? (host.groups_bound ?? []).join(", ") || "–" : null],
      [t("host.addresses"), host.addresses?.join(", ")],
      [t("host.os"), [host.os, host.kernel].filter(Boolean).join(" · ")],
      [t("host.cpus"), host.cpu_count && `${host.cpu_count} · ${bytes(host.memory_bytes)}`],
      [t("fleet.agent"), host.basic ? t("host.basic") : host.agent_version],
      [t("host.registered"), timeNode(host.registered_at)],
      [t("host.key"), create("code", { textContent: host.key_id })],
    ]);
    facts(part.now, [
      [t("fleet.heartbeat"), host.last_heartbeat_at ? timeNode(host.last_heartbeat_at) : t("host.never")],
      [t("fleet.cpu"), percent(host.cpu_usage)],
      [t("fleet.memory"), percent(host.memory_usage)],
      [t("host.disk"), percent(host.disk_usage)],
      [t("host.load"), host.load?.join("  ")],
      [t("host.clock"), clockOf(host, t)],
      [t("host.runs_as"), host.runs_as && t("host.runs_as_only", { account: host.runs_as })],
      [t("host.unlimited"), host.limits_missing && t("host.unlimited_what", { what: host.limits_missing.join(", ") })],
      [t("host.uptime"), host.uptime && duration(host.uptime * 1000)],
      [t("host.running"), host.running === null ? null : String(host.running)],
    ]);
  }

  function drawQuarantine(quarantine) {
    part.quarantine.hidden = !quarantine;
    part.trust.disabled = !quarantine || !mayTrust;
    if (quarantine) part.why.replaceChildren(visible(because(quarantine.reason)), " · ", timeNode(quarantine.since));
  }

  async function trust() {
    const answer = await confirmDialog({
      title: t("host.trust_title", { name: hostname }),
      body: t("host.trust_what"),
      yes: t("host.trust"),
      needsReason: true,
    });
    if (!answer) return;
    part.trust.disabled = true;
    try {
      await api.post(`/hosts/${encodeURIComponent(hostname)}/lift-quarantine`, { reason: answer.reason }, { signal });
    } catch (error) {
      toast(told(error), "bad");
      part.trust.disabled = false;
    }
  }

  async function drawHeartbeats() {
    const from = new Date(stream.now() - HOUR_MS).toISOString();
    const { items } = await api.get(`/hosts/${encodeURIComponent(hostname)}/heartbeats`, { query: { from, points: 300 }, signal });
    const since = Date.parse(from);
    for (const [name, field] of [["cpu", "cpu_usage"], ["memory", "memory_usage"]]) {
      part.chart.querySelector(`.${name}`).setAttribute("d", path(items, field, since));
    }
    text(part.range, t("host.range", { n: items.length }));
    keyedList(part.beats, items.slice(-MOST_BEATS).reverse(), (beat) => beat.at, () => make("beat-row").root, (element, beat) => {
      const row = refs(element);
      time(row.at, beat.at);
      text(row.cpu, percent(beat.cpu_usage));
      text(row.memory, percent(beat.memory_usage));
    });
  }

  const load = () => attempt(part.page, read);
  const loadHeartbeats = () => attempt(part.history, drawHeartbeats);

  async function read() {
    const [host, tasks] = await Promise.all([
      api.get(`/hosts/${encodeURIComponent(hostname)}`, { signal }),
      api.get("/tasks", { query: { hostname, limit: MOST_TASKS }, signal }),
    ]);
    stream.take("hosts", [host]);
    stream.take("tasks", tasks.items);
    for (const { task_id: taskId } of tasks.items) taskIds.add(taskId);
    oldest = tasks.next_cursor ? tasks.items.at(-1).seq : 0;
    draw();
    table.draw();
    if (!isFollowing) follow(tasks.as_of);
    isFollowing = true;
  }

  function follow(asOf) {
    stream.follow([`host:${hostname}`, "tasks"], asOf, signal, load);
    loadHeartbeats();
    const timer = setInterval(loadHeartbeats, HEARTBEATS_MS);
    signal.addEventListener("abort", () => clearInterval(timer));
  }

  part.trust.addEventListener("click", trust);
  store.subscribe(["hosts"], draw, signal);
  load();
}

/** A line through the heartbeats of the last hour; where a minute is missing there is a gap. */
function path(items, field, since) {
  let last = null;
  return items
    .map((beat) => {
      const at = Date.parse(beat.at);
      const command = last === null || at - last > 60_000 ? "M" : "L";
      last = at;
      return `${command}${(((at - since) / HOUR_MS) * 300).toFixed(1)} ${(89 - beat[field] * 88).toFixed(1)}`;
    })
    .join("");
}
