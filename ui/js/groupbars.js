// How the hosts of each group are, as bars with numbers; each chooses its group.
/** @import {Context, Counts, Host, Parts} from "./app.js" */
import { badge, bar } from "./components.js";
import { create, keyedList, options, text } from "./dom.js";
import { t } from "./i18n.js";
import { HOST } from "./states.js";

const FIRST = 8;
const MORE = 50;

/** @param {Parts["fleet"]} part @param {Context["store"]} store @param {(group: string) => void} choose */
export function createBars(part, store, choose) {
  let most = FIRST;
  let drawn = () => {};
  part.groups.open = matchMedia("(min-width: 800px)").matches;
  part.more.onclick = () => {
    most += MORE;
    drawn();
  };

  /** Counts `hosts`; the groups are those of all that are known. @param {Host[]} hosts */
  function draw(hosts, chosen = "") {
    drawn = () => draw(hosts, chosen);
    const counts = countsOf(hosts);
    const known = new Set([chosen]);
    for (const host of store.all("hosts")) for (const group of host.groups) known.add(group);
    const groups = [...known].filter(Boolean).sort();
    options(part.group, ["", ...groups], (group) => group || t("fleet.all_groups"));
    part.group.value = chosen;
    part.groups.hidden = !groups.length;
    const shown = groups.filter((group, at) => at < most || group === chosen);
    keyedList(part.bars, shown, (group) => group, createBar, (button, group) => update(button, group === chosen, counts.get(group) ?? {}));
    part.more.hidden = shown.length === groups.length;
    text(part.more, t("fleet.more_groups", { n: groups.length - shown.length }));
  }

  /** @param {string} group */
  function createBar(group) {
    const button = create("button", "", { className: "group", onclick: () => choose(group) });
    const [name, numbers] = ["name", "numbers"].map((className) => create("span", "", { className }));
    text(name, group);
    button.append(name, create("strong"), create("span", "", { className: "bar", ariaHidden: "true" }), numbers);
    return button;
  }

  return { draw };
}

/** @param {Host[]} hosts */
function countsOf(hosts) {
  /** @type {Map<string, Record<string, number>>} */
  const counts = new Map();
  for (const { state, groups } of hosts) {
    for (const group of groups) {
      const its = counts.get(group) ?? {};
      its[state] = (its[state] ?? 0) + 1;
      counts.set(group, its);
    }
  }
  return counts;
}

/** @param {HTMLElement} button @param {boolean} isChosen @param {Counts} counts */
function update(button, isChosen, counts) {
  const [, total, segments, numbers] = button.children;
  const states = Object.keys(HOST).filter((state) => counts[state]);
  const seen = states.map((state) => `${state} ${counts[state]}`).join();
  button.ariaPressed = String(isChosen);
  if (button.dataset.seen === seen) return;
  button.dataset.seen = seen;
  text(total, states.reduce((sum, state) => sum + counts[state], 0));
  bar(segments, counts, "host");
  keyedList(numbers, states, (state) => state, "span", (place, state) => badge(place, "host", state, `${counts[state]} ${t(`state.host.${state}`)}`));
}
