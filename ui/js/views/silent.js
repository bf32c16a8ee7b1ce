// Hosts that did not answer, before all that did: what is known of each.
/** @import {Context, Execution, Host, Parts, TaskView} from "../app.js" */
import { anchor, badge, timeNode } from "../components.js";
import { create, keyedList, text } from "../dom.js";
import { t } from "../i18n.js";
import { EXECUTION, answersOf, byAttention, by } from "../states.js";
import { add } from "./parts.js";
import { reasonText } from "./task_words.js";

const MOST_SHOWN = 50;
const MOST_PAGES = 20; // of hosts that are looked through
export const SILENT = Object.entries(EXECUTION).flatMap(([state, { answer }]) => (answer === "silent" ? state : []));
const AWAY = ["stale", "offline", "pending"];

/** @param {Parts["task"]} part @param {TaskView} view @param {Context} context @param {() => void} drawAll */
export function silentHosts(part, view, { api, user, signal }, drawAll) {
  /** @type {Map<string, Host>} */
  const known = new Map(); // hosts by name, as they are while one looks
  const asked = new Set();
  const card = elements(part.silent);

  function draw() {
    const { silent: count } = answersOf(view.current()?.counts ?? {});
    part.silent.hidden = count === 0;
    if (!count) return;
    readHosts("");
    const rows = view.executions().filter(({ state }) => SILENT.includes(state)).sort((a, b) => byAttention(a, b) || by("hostname")(a, b));
    text(card.title, t("task.silent", { n: count }));
    keyedList(card.hosts, rows.slice(0, MOST_SHOWN), ({ hostname }) => hostname, "li", drawOne);
    const more = rows.length - MOST_SHOWN;
    card.foot.hidden = more <= 0;
    card.more.href = view.address({ tab: "hosts", state: SILENT.join(",") });
    text(card.more, more > 0 ? t("task.silent_more", { n: more }) : "");
  }

  /** @param {HTMLElement} item @param {Execution} row */
  function drawOne(item, row) {
    const host = known.get(row.hostname);
    const drawn = `${row.pos}/${host?.last_heartbeat_at}`;
    if (item.dataset.drawn === drawn) return;
    item.dataset.drawn = drawn;
    const [name, state, facts] = [create("strong"), create("span"), create("span", "", { className: "row muted small" })];
    anchor(name, view.address({ host: row.hostname }), row.hostname);
    badge(state, "execution", row.state);
    const times = { sent: row.sent_at, accepted: row.accepted_at, started: row.started_at, heartbeat: host?.last_heartbeat_at };
    for (const [what, time] of Object.entries(times)) if (time) facts.append(fact(t(`silent.${what}`), time));
    if (host && !host.last_heartbeat_at) facts.append(create("span", t("silent.never_heard")));
    const reason = create("span");
    text(reason, reasonText(row) || (row.sent_at ? "" : t("silent.never_delivered")));
    item.className = "row note";
    item.replaceChildren(state, name, reason, facts);
  }

  /** Once: it is for who looks now, and no more. @param {string} state */
  async function readHosts(state) {
    if (asked.has(state) || !user.permissions.includes("hosts.read")) return;
    asked.add(state);
    /** @type {string | null | undefined} */
    let cursor;
    try {
      for (let page = 0; page < MOST_PAGES && !signal.aborted; page += 1) {
        const found = await api.get("/hosts", { state, limit: 1000, cursor });
        for (const host of found.items) known.set(host.hostname, host);
        cursor = found.next_cursor;
        if (!cursor) break;
      }
      drawAll();
    } catch {
      // How hosts are is beside the point of this page.
    }
  }

  /** @param {string[]} hostnames */
  function away(hostnames) {
    readHosts(AWAY.join(","));
    return hostnames.filter((hostname) => AWAY.includes(known.get(hostname)?.state ?? ""));
  }
  return { draw, away };
}

/** @param {Element} root */
function elements(root) {
  const title = add(add(root, "header"), "strong");
  const hosts = add(root, "ul");
  const foot = add(root, "p", "", { className: "note" });
  return { title, hosts, foot, more: add(foot, "a") };
}

/** @param {string} words @param {string} time */
function fact(words, time) {
  const place = create("span", `${words} `);
  place.append(timeNode(time));
  return place;
}
