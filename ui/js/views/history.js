// A host over an hour, a day or a week: how it was, and how busy.
/** @import {AuditEvent, Context, Parts} from "../app.js" */
import { badge, rowsOf } from "../components.js";
import { all, attempt, create, every, one, successive, text } from "../dom.js";
import { duration, percent, when } from "../format.js";
import { language, t } from "../i18n.js";
import { hostPath, link, moment } from "../router.js";
import { POINTS, lineOf, spansOf, sumsOf } from "../presence.js";
import { stateOf } from "../states.js";

const HOUR_MS = 3_600_000;
/** @type {Record<string, number>} */
const RANGES = { "1h": HOUR_MS, "24h": 24 * HOUR_MS, "7d": 168 * HOUR_MS };
const MINUTE_MS = 60_000;
const MOST_BEATS = 15;
const MOST_PAGES = 3;
/** @type {Record<string, "cpu_usage" | "memory_usage">} */
const USAGES = { cpu: "cpu_usage", memory: "memory_usage" };

/** Draws the range of an address, again each minute, and when it is told to.
 * @param {Parts["host"]} part @param {string} hostname @param {Context} context */
export function historyOf(part, hostname, { api, signal, store, stream, user }) {
  const url = hostPath(hostname);
  const seesEvents = user.permissions.includes("events.read");
  const beats = rowsOf(withHead(part.beats), "at");
  const nextRead = successive(signal);
  let range = "1h";
  let isWanted = false;
  const load = () => isWanted && attempt(part.history, () => read(nextRead()));

  part.ranges.append(...Object.keys(RANGES).map((name) => {
    const button = create("a", t(`host.range_${name}`), { className: "button", href: link(url, { range: name === "1h" ? "" : name }) });
    button.dataset.range = name;
    return button;
  }));
  part.strip.hidden = !seesEvents;
  part.chart.setAttribute("aria-label", t("host.history"));
  if (moment() === null) every(MINUTE_MS, load, signal);

  /** @param {AbortSignal} earlier */
  async function read(earlier) {
    const toMs = await endMs(earlier);
    const [fromMs, spanMs] = [toMs - RANGES[range], RANGES[range]];
    const from = new Date(fromMs).toISOString();
    const [{ items }, events] = await Promise.all([api.get(`${url}/heartbeats`, { from, points: POINTS }, earlier), seesEvents ? eventsSince(fromMs, earlier) : []]);
    drawStrip(spansOf(events, fromMs, toMs));
    for (const [name, field] of Object.entries(USAGES)) one(part.chart, `.${name}`, SVGElement).setAttribute("d", lineOf(items, field, fromMs, spanMs));
    const [cpu, memory] = Object.values(USAGES).map((field) => extremes(items.map((beat) => beat[field])));
    part.chart.setAttribute("aria-label", t("host.chart", { range: t(`host.range_${range}`), cpu, memory }));
    text(part.range, t("host.range", { n: items.length, from: when(from, toMs, language), to: when(toMs, toMs, language) }));
    beats.draw(items.slice(-MOST_BEATS).reverse());
    part.beats.closest("section")?.toggleAttribute("hidden", !items.length);
  }

  /** What is shown ends now, or at the moment of the page, which may be a position in the log.
   * @param {AbortSignal} earlier */
  async function endMs(earlier) {
    const at = moment();
    if (at === null) return stream.now();
    if (/^\d{4}-/.test(at)) return Date.parse(at);
    const { items: [last] } = seesEvents ? await api.get("/events", { limit: 1 }, earlier) : { items: [] };
    const host = store.one("hosts", hostname);
    return Date.parse(last?.recorded_at ?? host?.last_heartbeat_at ?? host?.state_since_at ?? "");
  }

  /** Its events until one tells how it was when the range began. @param {number} fromMs @param {AbortSignal} earlier */
  async function eventsSince(fromMs, earlier) {
    /** @type {AuditEvent[]} */
    const events = [];
    /** @type {string | null | undefined} */
    let cursor;
    for (let page = 0; page < MOST_PAGES; page += 1) {
      const found = await api.get("/events", { kind: "host", hostname, limit: 1000, cursor }, earlier);
      events.push(...found.items);
      cursor = found.next_cursor;
      if (!cursor || events.some(({ kind, recorded_at: at }) => kind.startsWith("host.went_") && Date.parse(at) <= fromMs)) break;
    }
    return events;
  }

  /** @param {ReturnType<typeof spansOf>} spans */
  function drawStrip(spans) {
    part.strip.replaceChildren(...spans.map(({ state, ms }) => {
      const span = create("span", "", { className: state ? `role-${stateOf("host", state).role}` : "unknown" });
      span.style.setProperty("--share", String(ms));
      return span;
    }));
    part.legend.replaceChildren(...[...sumsOf(spans)].map(([state, ms]) => {
      const place = create("span");
      const time = duration(ms);
      if (state) badge(place, "host", state, t("host.span", { state: t(`state.host.${state}`), time }));
      else text(place, t("host.span_unknown", { time }));
      return place;
    }));
  }

  return {
    load() {
      isWanted = true;
      load();
    },
    show(wanted = "") {
      range = Object.hasOwn(RANGES, wanted) ? wanted : "1h";
      for (const button of all(part.ranges, "a")) button.ariaCurrent = button.dataset.range === range ? "page" : null;
      load();
    },
  };
}

/** @param {HTMLTableElement} table */
function withHead(table) {
  const row = table.createTHead().insertRow();
  for (const [of, as, words] of [["at", "time", t("host.at")], ["cpu_usage", "percent", t("fleet.cpu")], ["memory_usage", "percent", t("fleet.memory")]]) {
    Object.assign(row.appendChild(create("th", words, { className: as === "time" ? "" : "number" })).dataset, { of, as });
  }
  return table;
}

/** @param {number[]} values */
function extremes(values) {
  return values.length ? t("host.extremes", { least: percent(Math.min(...values)), most: percent(Math.max(...values)) }) : "–";
}
