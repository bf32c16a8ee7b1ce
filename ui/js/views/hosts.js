// The fleet: every host as it is now, by state and group; the start page.
/** @import {Context, Host, Listing, Mount, Params, Term} from "../app.js" */
/** @typedef {[value: string | number | null, host: Host]} Sorted */
import { visible } from "../ansi.js";
import { badge, empty } from "../components.js";
import { all, announce, attempt, create, filtersOf, keyedList, only, permit, tell, text } from "../dom.js";
import { createBars } from "../groupbars.js";
import { because, t } from "../i18n.js";
import { hostPath, link } from "../router.js";
import { matches, names, parse } from "../query.js";
import { marksWrong } from "../queryfield.js";
import { changesBetween, windowed } from "../rows.js";
import { createSelection, runLink } from "../selection.js";
import { HOST } from "../states.js";

const MOST = 20_000;
const ANNOUNCE_MS = 10_000;
const STATES = Object.keys(HOST);
const MAINTENANCE = "maintenance"; // counted and chosen as a state, and there beside one
const MOST_FIRST = ["cpu_usage", "memory_usage", "running", "last_heartbeat_at"];
/** @type {Record<string, (host: Host) => string | number | null>} */
const VALUES = {
  hostname: (host) => host.hostname,
  state: (host) => STATES.indexOf(host.state),
  groups: (host) => host.groups.join(" ") || null,
  agent: (host) => host.agent_version,
};
/** @typedef {"cpu_usage" | "memory_usage" | "running" | "last_heartbeat_at"} Plain of a host, as it is */
const valueOf = (/** @type {string} */ name) => (Object.hasOwn(VALUES, name) ? VALUES[name] : (/** @type {Host} */ host) => host[/** @type {Plain} */ (name)]);

/** @type {Mount<"fleet">} */
export function mount(part, params, context) {
  const { store, stream, signal, navigate, user } = context;
  const filters = filtersOf(part, "/hosts", ["q", "group"], navigate);
  const rows = windowed(part.table, "hostname", { pick: drawPick, state: drawState, groups: drawGroups, agent: agentOf, os: drawOs }, signal);
  let filter = params;
  let query = ""; // the last that was one
  /** @type {Term[]} */
  let terms = [];
  /** @type {string[]} */
  let order = []; // hostnames, as they are shown
  /** @type {Host[]} */
  let shown = [];
  let isLoaded = false;
  let isOver = false;
  /** @type {?ReturnType<typeof import("../grid.js").createGrid>} */
  let grid = null;
  let [announced, announceTimer] = [0, 0];
  /** @type {?AbortController} */
  let adding = null;
  /** @type {PromiseWithResolvers<void>} */
  const loading = Promise.withResolvers();
  const showWrong = marksWrong(part.q, (reason) => t("fleet.wrong", { reason }), signal);
  const bars = createBars(part, store, (group) => filters.change({ group: filter.group === group ? "" : group }));
  const selection = createSelection(part.selection, context, () => shown, () => draw());

  /** What the counts, the bars and the list are made of. */
  function look() {
    const asked = store.all("hosts").filter((host) => matches(terms, host));
    const { group } = filter;
    const inGroup = group ? asked.filter((host) => host.groups.includes(group)) : asked;
    const isRetiredShown = names(terms, "retired");
    const isLeft = (/** @type {Host} */ { state }) => state !== "retired" || isRetiredShown;
    const wanted = filter.state?.split(",");
    const isWanted = (/** @type {Host} */ host) =>
      filter.state === MAINTENANCE ? host.maintenance && isLeft(host) : wanted ? wanted.includes(host.state) : isLeft(host);
    return { asked: asked.filter(isLeft), inGroup, isLeft, found: inGroup.filter(isWanted) };
  }

  function sorting() {
    const sort = filter.sort || "hostname";
    const isDown = sort.startsWith("-");
    return { isDown, name: isDown ? sort.slice(1) : sort };
  }

  /** @param {Host[]} hosts */
  function sorted(hosts) {
    const { isDown, name } = sorting();
    const value = valueOf(name);
    const sign = isDown ? -1 : 1;
    /** @param {Sorted} one @param {Sorted} other */
    const compare = (one, other) => {
      if (one[0] !== other[0]) {
        if (one[0] == null || other[0] == null) return one[0] == null ? 1 : -1; // what is not known is last, either way
        return one[0] < other[0] ? -sign : sign;
      }
      return one[1].hostname < other[1].hostname ? -1 : 1;
    };
    return hosts.map((host) => /** @type {Sorted} */ ([value(host) ?? null, host])).sort(compare).map(([, host]) => host);
  }

  /** While somebody is in the list it changes its values, and not its order.
   * @param {Host[]} found @param {boolean} isAsked */
  function settle(found, isAsked) {
    const next = found.map((host) => host.hostname);
    const isHeld = !isAsked && (isOver || part.rows.contains(document.activeElement)) && order.some((name, at) => name !== next[at]);
    if (!isHeld) order = next;
    const changes = isHeld ? changesBetween(order, next) : 0;
    part.changes.hidden = !changes;
    text(part.changes, t("fleet.changes", { n: changes }));
    return isHeld ? order.flatMap((name) => store.one("hosts", name) ?? []) : found;
  }

  function draw(isAsked = false) {
    if (!isLoaded) return;
    const { asked, inGroup, isLeft, found } = look();
    shown = settle(sorted(found), isAsked);
    drawEmpty();
    if (filter.view === "grid") attempt(part.grid, drawGrid);
    else rows.draw(shown); // first, while the place of the table is known
    drawCounts(inGroup, isLeft);
    bars.draw(asked, filter.group);
    const { isAll, seen } = selection.show();
    const { names: picked } = selection;
    Object.assign(part.all, { checked: isAll && seen > 0, indeterminate: seen > 0 && !isAll });
    text(part.allWords, t("fleet.select_all", { n: shown.length }));
    part.run.href = runLink(picked(), { ...filter, q: query }, isAll);
    text(part.run, picked().length ? t("fleet.run_on", { n: picked().length }) : t("run.title"));
  }

  function drawEmpty() {
    part.panel.hidden = shown.length === 0 || filter.view === "grid";
    part.grid.hidden = shown.length === 0 || filter.view !== "grid";
    part.empty.hidden = shown.length > 0;
    if (shown.length) return;
    const hosts = store.all("hosts");
    const without = terms.find(({ test }) => !hosts.some(test));
    const words = without ? t("fleet.no_match_of", { term: visible(without.term) }) : t("fleet.no_match");
    if (hosts.length) return empty(part.empty, words, link("/hosts", { view: filter.view, sort: filter.sort }), t("shell.clear"));
    empty(part.empty, t("fleet.none"));
    const add = create("button", t("fleet.add"), { className: "button", onclick: () => part.add.click() });
    part.empty.append(create("br"), add, " ");
    permit(add, user, "hosts.enrol");
  }

  /** @param {Host[]} hosts @param {(host: Host) => boolean} isLeft */
  function drawCounts(hosts, isLeft) {
    const counts = Object.fromEntries(["", ...STATES, MAINTENANCE].map((state) => [state, 0]));
    for (const host of hosts) {
      counts[host.state] = (counts[host.state] ?? 0) + 1; // a newer server may have more states
      if (!isLeft(host)) continue;
      counts[""] += 1;
      if (host.maintenance) counts[MAINTENANCE] += 1;
    }
    const wanted = Object.entries(counts).filter(([state, count]) => count > 0 || state === "" || state === filter.state);
    keyedList(part.counts, wanted, ([state]) => state || "all", createCount, (button, [state, count]) => {
      button.ariaPressed = String((filter.state ?? "") === state);
      text(button.children[0], count);
      if (!state) text(button.children[1], t("fleet.all", { n: count }));
    });
  }

  function createCount(/** @type {[string, number]} */ [state]) {
    const [button, number, word] = [create("button"), create("strong"), create("span")];
    if (state) badge(word, state === MAINTENANCE ? "mark" : "host", state);
    button.append(number, word);
    button.onclick = () => filters.change({ state: filter.state === state ? "" : state });
    return button;
  }

  /** @param {Host} host @param {HTMLElement} cell */
  function drawPick({ hostname }, cell) {
    const box = Object.assign(only(cell, "input"), { type: "checkbox", ariaLabel: visible(t("fleet.select_one", { name: hostname })), checked: selection.has(hostname) });
    box.onclick = (event) => selection.pick(hostname, box.checked, event.shiftKey);
  }

  const marksOf = (/** @type {Host} */ { quarantine, maintenance }) => [...(quarantine ? ["quarantined"] : []), ...(maintenance ? ["maintenance"] : [])];

  /** @param {Host} host @param {HTMLElement} cell */
  function drawState(host, cell) {
    if (!cell.firstElementChild) cell.append(create("span"), " ", create("span", "", { className: "marks" }));
    const [state, marks] = all(cell, ":scope > span");
    badge(state, "host", host.state);
    state.title = visible(because(host.state_cause));
    keyedList(marks, marksOf(host), (mark) => mark, "span", (place, mark) => {
      place.title = mark === "quarantined" ? visible(because(host.quarantine?.reason ?? "")) : "";
      badge(place, "mark", mark);
    });
  }

  /** Whole in a tooltip, since a row has one line for it. @param {HTMLElement} cell @param {string} words */
  function titled(cell, words) {
    cell.title = visible(words);
    return words;
  }

  const groupsOf = (/** @type {Host} */ host) => host.groups.join(", ") + (host.drift ? ` ≠ ${(host.groups_bound ?? []).join(", ")}` : "");
  function drawGroups(/** @type {Host} */ host, /** @type {HTMLElement} */ cell) {
    return titled(cell, groupsOf(host));
  }
  function drawOs(/** @type {Host} */ host, /** @type {HTMLElement} */ cell) {
    return titled(cell, host.os ?? "");
  }
  function agentOf(/** @type {Host} */ host) {
    return host.basic ? t("host.basic") : (host.agent_version ?? "");
  }

  async function drawGrid() {
    if (!grid) {
      const { createGrid } = await import("../grid.js");
      grid ??= createGrid(part.grid, { open: ({ hostname }) => navigate(hostPath(hostname)), toggle: ({ hostname }) => selection.pick(hostname, !selection.has(hostname)), isPicked: ({ hostname }) => selection.has(hostname), wordsOf, signal });
      keyedList(part.legend, STATES, (state) => state, "li", (place, state) => badge(place, "host", state));
    }
    /** @type {Map<string, Host[]>} */
    const sections = new Map();
    for (const host of shown) {
      for (const group of filter.group ? [filter.group] : host.groups.length ? host.groups : [""]) {
        const its = sections.get(group);
        if (its) its.push(host);
        else sections.set(group, [host]);
      }
    }
    const ordered = [...sections].sort(([one], [other]) => (one === "" ? 1 : other === "" ? -1 : one < other ? -1 : 1));
    grid.draw(ordered.map(([group, hosts]) => ({ name: group || t("fleet.no_group"), hosts })));
  }

  /** @param {Host} host @param {string} group */
  function wordsOf(host, group) {
    const states = [t(`state.host.${host.state}`), ...marksOf(host).map((mark) => t(`state.mark.${mark}`))];
    return t("fleet.tile", { name: host.hostname, words: [...states, group].join(" · ") });
  }

  function drawHeads() {
    const { isDown, name } = sorting();
    for (const head of part.table.rows[0].cells) head.ariaSort = head.dataset.of === name ? (isDown ? "descending" : "ascending") : null;
    for (const button of part.views.querySelectorAll("button")) button.ariaPressed = String((filter.view ?? "") === button.value);
  }

  /** @param {string} name */
  function sortBy(name) {
    const [first, second] = MOST_FIRST.includes(name) ? [`-${name}`, name] : [name, `-${name}`];
    const next = (filter.sort || "hostname") === first ? second : first;
    filters.change({ sort: next === "hostname" ? "" : next });
  }

  /** What is wrong is marked; the list stays that of the query before. */
  function read(said = "") {
    const { terms: found, error } = parse(said);
    if (found) [query, terms] = [said, found];
    showWrong(error, said);
  }

  function announceFound() {
    clearTimeout(announceTimer);
    announceTimer = setTimeout(() => {
      announced = Date.now();
      announce(t("fleet.found", { n: shown.length }));
    }, Math.max(1000, announced + ANNOUNCE_MS - Date.now()));
  }

  const load = () => attempt(part.list, async () => {
    const asOf = await readHosts(context, showProgress);
    stream.follow(["hosts", "usage"], asOf, signal, load);
    loading.resolve();
  });

  /** @param {Listing<Host>} page */
  function showProgress({ total, next_cursor: cursor }) {
    const n = store.all("hosts").length;
    part.note.hidden = !cursor;
    text(part.note, n < MOST ? t("fleet.reading", { n, total }) : t("fleet.too_many", { n, total }));
    isLoaded = true;
    draw();
    tell(part.list, "filled"); // the first of them are there to be seen
  }

  async function add() {
    adding?.abort();
    const own = (adding = new AbortController());
    const close = () => (own.abort(), part.added.replaceChildren());
    const its = { ...context, signal: AbortSignal.any([signal, own.signal]) };
    await attempt(part.added, async () => {
      const { addHost } = await import("../addhost.js");
      addHost(part.added, its, loading.promise, close);
    });
  }

  /** @param {Params} next */
  function update(next) {
    const isOther = next.q !== filter.q || next.group !== filter.group || next.state !== filter.state;
    filter = next;
    read(next.q);
    filters.show(next);
    drawHeads();
    draw(true);
    if (isOther) announceFound();
  }

  for (const head of part.table.rows[0].cells) {
    const { of = "" } = head.dataset;
    if (of !== "pick") head.replaceChildren(create("button", head.textContent, { className: "plain", onclick: () => sortBy(of) }));
  }
  if (permit(part.add, user, "hosts.enrol")) part.add.onclick = add;
  part.all.onchange = () => selection.pickAll(part.all.checked);
  part.changes.onclick = () => draw(true);
  part.views.onclick = ({ target }) => target instanceof HTMLButtonElement && filters.change({ view: target.value });
  part.rows.onpointerenter = ({ pointerType }) => (isOver = pointerType !== "touch");
  part.rows.onpointerleave = () => {
    isOver = false;
    draw();
  };
  part.rows.addEventListener("focusout", ({ relatedTarget }) => part.rows.contains(/** @type {?Node} */ (relatedTarget)) || requestAnimationFrame(() => signal.aborted || draw()));
  signal.addEventListener("abort", () => clearTimeout(announceTimer));
  store.subscribe(["hosts"], () => draw(), signal);
  update(params);
  load();
  return { update };
}

/** Take all hosts in, as many as are held; the position that they are of. `onPage` is given each answer.
 * @param {Context} context @param {(page: Listing<Host>) => void} onPage */
export async function readHosts({ api, store, stream }, onPage = () => {}) {
  let asOf = "";
  /** @type {string | null | undefined} */
  let cursor;
  do {
    const page = await api.get("/hosts", { limit: 1000, cursor, state: STATES.join(",") });
    asOf ||= page.as_of;
    stream.take("hosts", page.items);
    cursor = page.next_cursor;
    onPage(page);
  } while (cursor && store.all("hosts").length < MOST);
  return asOf;
}
