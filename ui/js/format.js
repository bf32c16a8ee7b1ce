// Times, sizes, numbers and lists of hosts as people read them.
import { t } from "./i18n.js";

/** @import {Folded, Time} from "./app.js" */

/** @type {[Intl.RelativeTimeFormatUnit, number][]} */
const STEPS = [
  ["second", 1],
  ["minute", 60],
  ["hour", 3600],
  ["day", 86_400],
];

/** @param {string} time @param {number} nowMs */
export function relative(time, nowMs, language = "en") {
  const seconds = Math.round((Date.parse(time) - nowMs) / 1000);
  const [unit, size] = STEPS.findLast(([, least]) => Math.abs(seconds) >= least) ?? STEPS[0];
  return new Intl.RelativeTimeFormat(language, { numeric: "auto", style: "short" }).format(Math.trunc(seconds / size), unit);
}

/** @type {string | undefined} */
let timeZone; // undefined: that of this machine

/** @param {boolean} isUtc */
export const useUtc = (isUtc) => (timeZone = isUtc ? "UTC" : undefined);

/** @param {string} words */
const named = (words) => (timeZone ? `${words} UTC` : words);

/** @param {Time} time */
export function absolute(time, language = "en") {
  return named(new Date(time).toLocaleString(language, { dateStyle: "medium", timeStyle: "medium", timeZone }));
}

/** @param {Time} time */
export function clock(time, language = "en") {
  return named(new Date(time).toLocaleTimeString(language, { timeZone }));
}

/** What a date-time field shows of a time, in the zone in which times are told. @param {?Time} [time] */
export function toField(time) {
  const date = new Date(time ?? NaN);
  if (Number.isNaN(date.getTime())) return "";
  const shift = timeZone ? 0 : date.getTimezoneOffset() * 60_000;
  return new Date(date.getTime() - shift).toISOString().slice(0, 19);
}

/** The time that a date-time field says, as RFC 3339 in UTC. @param {string} value */
export function fromField(value) {
  return value && new Date(timeZone ? `${value}Z` : value).toISOString().replace(".000Z", "Z");
}

/** @param {?number} [fraction] */
export function percent(fraction) {
  return fraction == null ? "" : `${Math.round(fraction * 100)} %`;
}

/** @param {?number} [count] */
export function bytes(count) {
  if (count == null) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const place = count > 0 ? Math.min(units.length - 1, Math.floor(Math.log2(count) / 10)) : 0;
  const value = count / 1024 ** place;
  return `${place && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[place]}`;
}

/** "0.4 s", "12 s", "3 min 20 s", "2 h 5 min", "90 d 3 h". @param {number} ms */
export function duration(ms) {
  const seconds = ms / 1000;
  if (seconds < 10) return t("time.seconds", { n: seconds.toFixed(seconds < 0.1 ? 2 : 1) });
  const whole = Math.round(seconds);
  const [minutes, hours] = [Math.floor(whole / 60), Math.floor(whole / 3600)];
  if (whole < 60) return t("time.seconds", { n: whole });
  if (whole < 3600) return t("time.minutes", { n: minutes, s: whole % 60 });
  if (hours < 24) return t("time.hours", { n: hours, min: minutes % 60 });
  return t("time.days", { n: Math.floor(hours / 24), h: hours % 24 });
}

/** @param {?string} [from] @param {?string} [to] */
export function between(from, to) {
  return from && to ? duration(Math.max(0, Date.parse(to) - Date.parse(from))) : "";
}

const NEAR_MS = 20 * 3_600_000;

/** The time of day alone, where it can be of no other day. @param {Time} time @param {number} nowMs */
export function when(time, nowMs, language = "en") {
  return Math.abs(new Date(time).getTime() - nowMs) < NEAR_MS ? clock(time, language) : absolute(time, language);
}

/** "web[01-97],db1": hostnames folded where they differ in one number. @param {Iterable<string>} hostnames */
export function fold(hostnames) {
  /** @type {Map<string, Folded[]>} */
  const groups = new Map();
  for (const name of new Set(hostnames)) {
    const found = /^(.*?)(\d+)(\D*)$/.exec(name);
    const key = found ? `${found[1]}\0${found[3]}\0${found[2].length}` : name;
    const [whole, before = "", digits = "", after = ""] = found ?? [name];
    const group = groups.get(key) ?? [];
    if (!group.length) groups.set(key, group);
    group.push({ whole, before, digits, after });
  }
  return [...groups.values()].map(foldGroup).sort().join(",");
}

/** All numbers of a group have the same width, so they sort as text. @param {Folded[]} members */
function foldGroup(members) {
  const [first] = members;
  if (members.length === 1) return first.whole;
  const numbers = members.map((member) => member.digits).sort();
  const ranges = [];
  for (let at = 0; at < numbers.length; ) {
    let end = at;
    while (end + 1 < numbers.length && BigInt(numbers[end + 1]) === BigInt(numbers[end]) + 1n) end += 1;
    ranges.push(at === end ? numbers[at] : `${numbers[at]}-${numbers[end]}`);
    at = end + 1;
  }
  return `${first.before}[${ranges.join(",")}]${first.after}`;
}
