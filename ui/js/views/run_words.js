// What is said of a preview: which hosts it has, which not, and what stands against it; and what a template asks for.
/** @import {Field, ParameterShown, Preview} from "../app.js" */
import { visible } from "../ansi.js";
import { create, text } from "../dom.js";
import { fold } from "../format.js";
import { because, t, told } from "../i18n.js";
import { FIRST_HOSTS } from "./confirm.js";

const MOST_CHARACTERS = 4096;

/** @param {string[]} hostnames */
const firstOf = (hostnames) => fold(hostnames.slice(0, FIRST_HOSTS)) + (hostnames.length > FIRST_HOSTS ? " …" : "");

/** @param {Preview} preview */
export function hostsNode({ hosts, count }) {
  const place = create("span", "", { className: "row" });
  const names = place.appendChild(create("code", firstOf(hosts)));
  if (count <= FIRST_HOSTS) return place;
  const all = place.appendChild(create("button", t("run.all_hosts", { n: count }), { type: "button", className: "plain small" }));
  all.onclick = () => {
    all.remove();
    text(names, fold(hosts));
  };
  return place;
}

/** @param {Preview} preview */
export function leftOutText({ excluded }) {
  const byReason = Map.groupBy(excluded, ({ reason }) => reason);
  return [...byReason].map(([reason, some]) => `${firstOf(some.map(({ hostname }) => hostname))}: ${because(reason)}`).join("; ");
}

/** @param {Preview} preview */
export function refusalText({ allowed, refusal: detail }) {
  return allowed ? "" : told({ code: "not_allowed", detail, body: { action: "tasks.run" } });
}

/** @param {Preview} preview */
export function quarantinedText({ quarantined: hosts }) {
  return hosts.length ? t("run.quarantined", { n: hosts.length, hosts: fold(hosts.slice(0, FIRST_HOSTS)) }) : "";
}

/** Which hosts are others than before. @param {Preview} before @param {Preview} now */
export function differenceText({ hosts: before }, { hosts: now }) {
  const [was, is] = [new Set(before), new Set(now)];
  const names = (/** @type {Set<string>} */ some, /** @type {Set<string>} */ others) => firstOf([...some.difference(others)]) || "–";
  return t("problem.target_changed", { joined: names(is, was), left: names(was, is) });
}

/** @param {string} words */
export const wrong = (words) => create("p", visible(words), { className: "field-error", role: "alert" });

/** @param {ParameterShown} parameter @returns {Field} */
export function parameterField({ name, type, choices, min, max, prefix: value, max_length: maxLength }) {
  const limits = type === "integer" ? { type: "number", min: String(min ?? ""), max: String(max ?? "") } : { maxLength: maxLength ?? MOST_CHARACTERS };
  return { name: `parameters.${name}`, label: name, value, required: true, choices: choices ?? undefined, ...(!choices && limits) };
}
