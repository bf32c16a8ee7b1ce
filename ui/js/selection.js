// Which hosts are picked, and what is done to them.
/** @import {Context, Failed, Host, Params} from "./app.js" */
import { Problem, lasting } from "./api.js";
import { act, create, permit, text, toast } from "./dom.js";
import { t, told } from "./i18n.js";
import { link } from "./router.js";

const MOST_IN_ADDRESS = 200; // hostnames: an address has a limit
const AT_ONCE = 4;
const TOO_MANY_MS = 1000; // until what was refused as too much at once is asked again
const MOST_TOLD = 3;

/** The page that runs something: on the picked hosts, by what describes just them where they are many.
 * @param {string[]} names @param {Params} filter @param {boolean} isAll */
export function runLink(names, { q, group, state }, isAll) {
  if (!names.length) return link("/run", { group });
  if (!isAll || names.length <= MOST_IN_ADDRESS) return link("/run", { hosts: names.join(",") });
  if (group && !q && !state) return link("/run", { group });
  const of = state === "maintenance" ? "is:maintenance" : state && `state:${state}`;
  const query = [q, group && `group:${group}`, of].filter(Boolean).join(" ");
  return link("/run", query ? { q: query } : { all: true });
}

/** The same change by cpctl, which takes one host; empty where they are too many for a line. @param {string[]} names @param {boolean} wanted */
export function maintenanceLine(names, wanted) {
  if (!names.length || names.length > MOST_IN_ADDRESS) return "";
  const set = (/** @type {string} */ name) => `cpctl hosts set ${name} --maintenance ${wanted ? "on" : "off"}`;
  return names.length === 1 ? set(names[0]) : `for host in ${names.join(" ")}; do ${set('"$host"')}; done`;
}

/** `shown` gives the hosts of the list in its order; `draw` shows what is picked.
 * @param {HTMLElement} place @param {Context} context @param {() => Host[]} shown @param {() => void} draw */
export function createSelection(place, { user, store }, shown, draw) {
  /** @type {Set<string>} */
  const picked = new Set();
  let last = ""; // picked by hand, from which Shift picks a range
  const words = create("span");
  words.role = "status";
  /** @param {string} label @param {() => unknown} onclick */
  const button = (label, onclick) => create("button", label, { onclick });
  const all = button("", () => pickAll(true));
  const [on, off] = [true, false].map((wanted) => button(t(wanted ? "fleet.maintenance_on" : "fleet.maintenance_off"), () => maintain(wanted)));
  place.append(words, all, on, off, button(t("fleet.unselect"), () => pickAll(false)));
  const may = [on, off].map((each) => permit(each, user, "hosts.edit"))[0];

  /** @param {string} hostname @param {boolean} isPicked */
  function pick(hostname, isPicked, isRange = false) {
    const names = shown().map((host) => host.hostname);
    const ends = [names.indexOf(last), names.indexOf(hostname)].sort((one, other) => one - other);
    const range = isRange && ends[0] >= 0 ? names.slice(ends[0], ends[1] + 1) : [hostname];
    for (const name of range) picked[isPicked ? "add" : "delete"](name);
    last = hostname;
    draw();
  }

  /** @param {boolean} isPicked */
  function pickAll(isPicked) {
    if (!isPicked) picked.clear();
    else for (const { hostname } of shown()) picked.add(hostname);
    draw();
  }

  function show() {
    const hosts = shown();
    const seen = hosts.filter(({ hostname }) => picked.has(hostname)).length;
    place.hidden = !picked.size;
    const hidden = picked.size - seen;
    text(words, [t("fleet.selected", { n: picked.size }), hidden && t("fleet.selected_hidden", { n: hidden })].filter(Boolean).join(" · "));
    for (const [button, wanted] of /** @type {const} */ ([[on, true], [off, false]])) button.title = maintenanceLine([...picked].sort(), wanted);
    all.hidden = seen === hosts.length;
    text(all, t("fleet.select_all", { n: hosts.length }));
    return { isAll: seen === hosts.length && hidden === 0, seen };
  }

  /** @type {(wanted: boolean) => unknown} */
  const maintain = (wanted) => may && change([...picked].sort(), wanted, true);

  /** To its end, also where the page is left meanwhile.
   * @param {string[]} names @param {boolean} wanted @param {boolean} isUndoable */
  async function change(names, wanted, isUndoable) {
    // To take back, what was done counts, and not rows that another page does not follow.
    const other = isUndoable ? names.filter((name) => store.one("hosts", name)?.maintenance !== wanted) : names;
    const button = wanted ? on : off;
    const label = button.textContent;
    /** @type {string[]} */
    const done = [];
    /** @type {Failed[]} */
    const failed = [];
    await act(button, async () => {
      const left = [...other];
      const work = async () => {
        for (let name = left.shift(); name !== undefined; name = left.shift()) {
          await patch(name, wanted).then(() => done.push(name), (error) => failed.push({ name, error }));
          text(button, t("fleet.maintenance_at", { n: done.length + failed.length, total: other.length }));
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE }, work));
      tell(names.length - failed.length, done, failed, wanted, isUndoable);
    });
    button.disabled = false;
    text(button, label);
  }

  /** @param {number} n @param {string[]} done @param {Failed[]} failed @param {boolean} wanted
   * @param {boolean} isUndoable */
  function tell(n, done, failed, wanted, isUndoable) {
    const worked = t(wanted ? "fleet.maintenance_on_done" : "fleet.maintenance_off_done", { n });
    const undo = isUndoable && done.length ? () => change(done, !wanted, false) : null;
    if (!failed.length) return toast(worked, "", undo);
    const why = failed.slice(0, MOST_TOLD).map(({ name, error }) => `${name}: ${told(error)}`).join("; ");
    toast(t("fleet.not_changed", { done: worked, n: failed.length, why: failed.length > MOST_TOLD ? `${why} …` : why }), "bad", undo);
  }

  /** @param {string} name @param {boolean} maintenance */
  async function patch(name, maintenance) {
    for (;;) {
      try {
        return await lasting.patch(`/hosts/${encodeURIComponent(name)}`, { maintenance });
      } catch (error) {
        if (!(error instanceof Problem) || error.status !== 429) throw error;
        await new Promise((resolve) => setTimeout(resolve, TOO_MANY_MS));
      }
    }
  }

  return { has: (/** @type {string} */ hostname) => picked.has(hostname), names: () => [...picked], pick, pickAll, show };
}
