// What the System page tells of the program: what was not as it should be, by number, and whose work it is made of.
/** @import {Api, Counted, Parts, SignedCheckpoint, System} from "../app.js" */
import { attempt, create } from "../dom.js";
import { when } from "../format.js";
import { language, t } from "../i18n.js";
import { link } from "../router.js";
import { now } from "../stream.js";

/** @type {Record<string, string>} */
const WORDS = {
  rejected: "system.rejected",
  conflicts: "system.conflicts",
  unexpected: "system.unexpected",
  late: "system.late",
  denied: "system.denied",
  results_dead: "system.results_dead",
  heartbeats_dead: "system.heartbeats_dead",
  duplicates: "system.duplicates",
};

/** @param {Parts["system"]["kinds"]} place @param {Counted[]} counted */
export function drawCounted(place, counted) {
  const ofTheLog = counted.filter(({ since }) => since === null);
  const here = counted.filter(({ since }) => since !== null);
  const time = here[0]?.since ?? "";
  const isCounted = here.some(({ number }) => number !== null);
  const since = when(time, now(), language);
  const own = create("p", "", { className: "note row" });
  own.append(create("span", t(isCounted ? "system.counted_here" : "system.not_counted", { time: since })), ...(isCounted ? here.map(itemOf) : []));
  place.replaceChildren(create("span", t("system.counted")), ...ofTheLog.map(itemOf));
  place.parentElement?.querySelector(".note ~ .note")?.remove();
  place.after(own);
}

/** @param {Counted} counted */
function itemOf({ name, number, is_more: isMore, kind }) {
  const n = `${numbered(number ?? 0)}${isMore ? "+" : ""}`;
  const words = t("system.number", { what: t(WORDS[name] ?? name), n });
  return kind ? create("a", words, { href: link("/audit", { kind }) }) : create("span", words);
}

/** @param {Api} api @param {System} system */
export function licencesOf(api, { licence }) {
  const place = create("details");
  const list = place.appendChild(create("ul", "", { className: "small" }));
  place.prepend(create("summary", t("system.licences_text", { licence })));
  place.ontoggle = () => place.open && !list.children.length && attempt(list, read);

  async function read() {
    const { items } = await api.get("/system/packages");
    list.replaceChildren(...items.map(({ name, version, licence: its }) => create("li", `${name} ${version} · ${its || "–"}`)));
  }
  return place;
}

/** @param {SignedCheckpoint} checkpoint */
export function witnessesOf({ witnesses }) {
  if (!witnesses) return t("system.no_witnesses");
  const { hosts: n, newest, size } = witnesses;
  return t("system.witnesses_text", { n, newest: numbered(newest), size: numbered(size) });
}

/** @param {number} n */
const numbered = (n) => n.toLocaleString(language);
