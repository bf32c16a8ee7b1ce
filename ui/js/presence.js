// A host over time, from its events and heartbeats: how it was, and lines of its usages.
/** @import {AuditEvent, Span, UsagePoint} from "./app.js" */
/** @type {Record<string, string>} */
const STATES = {
  "host.registered": "pending",
  "host.went_online": "online",
  "host.went_stale": "stale",
  "host.went_offline": "offline",
  "host.revoked": "revoked",
  "host.retired": "retired",
};
const OUT = ["revoked", "retired"]; // until it is registered anew, whatever is heard of it

export const POINTS = 300;
const MINUTE_MS = 60_000;

/** How long it was in which state, from the events of hosts, newest first; null: before what they know.
 * @param {Pick<AuditEvent, "kind" | "recorded_at">[]} events @param {number} fromMs @param {number} toMs
 * @returns {Span[]} */
export function spansOf(events, fromMs, toMs) {
  /** @type {{state: ?string, since: number}} */
  let span = { state: null, since: -Infinity };
  const spans = [span];
  for (const { kind, recorded_at: at } of events.toReversed()) {
    const state = STATES[kind];
    const isHeard = !OUT.includes(state) && state !== "pending";
    if (!state || state === span.state || (isHeard && OUT.includes(String(span.state)))) continue;
    span = { state, since: Date.parse(at) };
    spans.push(span);
  }
  return spans
    .map(({ state, since }, place) => ({ state, ms: Math.min(toMs, spans[place + 1]?.since ?? toMs) - Math.max(fromMs, since) }))
    .filter(({ ms }) => ms > 0);
}

/** @param {Span[]} spans */
export function sumsOf(spans) {
  /** @type {Map<?string, number>} */
  const sums = new Map();
  for (const { state, ms } of spans) sums.set(state, (sums.get(state) ?? 0) + ms);
  return sums;
}

/** The path of a usage in 300 × 90. Where nothing was heard for longer than points are apart, there is a gap.
 * @param {UsagePoint[]} items @param {"cpu_usage" | "memory_usage"} field @param {number} fromMs
 * @param {number} spanMs */
export function lineOf(items, field, fromMs, spanMs) {
  const most = Math.max(MINUTE_MS, (1.5 * spanMs) / POINTS);
  return items
    .map((beat, place) => {
      const at = Date.parse(beat.at);
      const point = `${(((at - fromMs) / spanMs) * 300).toFixed(1)} ${(89 - beat[field] * 88).toFixed(1)}`;
      return at - Date.parse(items[place - 1]?.at) <= most ? `L${point}` : `M${point}h.01`; // one alone is a dot
    })
    .join("");
}
