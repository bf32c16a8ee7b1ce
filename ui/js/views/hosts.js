// The fleet: every host as it is now, by state and group; the start page.
import { visible } from "../ansi.js";
import { badge, empty, rowsOf } from "../components.js";
import { attempt, create, filtersOf, keyedList, only, options, permit, text, toast } from "../dom.js";
import { because, t } from "../i18n.js";
import { link } from "../router.js";
import { HOST, by } from "../states.js";

const MOST = 20_000;
const MOST_DRAWN = 500;

export function mount(part, params, context) {
  const { store, stream, signal, navigate, user } = context;
  const picked = new Set();
  let filter = params;
  let isLoaded = false;
  const rows = rowsOf(part.table, "hostname", {
    pick: drawPick,
    state: drawState,
    groups: (host) => host.groups.join(", ") + (host.drift ? ` ≠ ${(host.groups_bound ?? []).join(", ")}` : ""),
    agent: (host) => (host.basic ? t("host.basic") : host.agent_version),
  });
  const filters = filtersOf(part, "/hosts", ["q", "group"], navigate);

  permit(part.add, user, "hosts.enrol");
  part.add.onclick = () => addHost(part.added, context);
  part.all.onchange = () => {
    for (const { hostname } of shown()) pick(hostname, part.all.checked);
    draw();
  };

  const pick = (hostname, isPicked) => (isPicked ? picked.add(hostname) : picked.delete(hostname));

  function matching() {
    const words = (filter.q ?? "").toLowerCase().split(/\s+/);
    return store.all("hosts").filter((host) => (!filter.group || host.groups.includes(filter.group)) && words.every((word) => host.hostname.includes(word)));
  }

  function shown() {
    const states = filter.state ? filter.state.split(",") : Object.keys(HOST).filter((state) => state !== "retired");
    return matching().filter((host) => states.includes(host.state)).sort(by("hostname"));
  }

  function draw() {
    if (!isLoaded) return;
    const hosts = shown();
    drawCounts(matching());
    options(part.group, ["", ...new Set(store.all("hosts").flatMap((host) => host.groups).sort())], (group) => group || t("fleet.all_groups"));
    part.group.value = filter.group ?? "";
    rows.draw(hosts.slice(0, MOST_DRAWN));
    part.panel.hidden = hosts.length === 0;
    part.empty.hidden = hosts.length > 0;
    if (!store.all("hosts").length) empty(part.empty, t("fleet.none"));
    else if (!hosts.length) empty(part.empty, t("fleet.no_match"), "/hosts", t("shell.clear"));
    else if (hosts.length > MOST_DRAWN) empty(part.empty, t("fleet.more", { n: hosts.length - MOST_DRAWN }));
    part.all.checked = hosts.length > 0 && hosts.every((host) => picked.has(host.hostname));
    const names = [...picked];
    part.run.href = link("/run", names.length ? { hosts: names.join(",") } : { group: filter.group });
    text(part.run, names.length ? t("fleet.run_on", { n: names.length }) : t("run.title"));
  }

  function drawCounts(hosts) {
    const countOf = (state) => hosts.filter((host) => (state ? host.state === state : host.state !== "retired")).length;
    const counts = ["", ...Object.keys(HOST)].map((state) => [state, countOf(state)]);
    const wanted = counts.filter(([state, count]) => count > 0 || state === "" || state === filter.state);
    keyedList(part.counts, wanted, ([state]) => state || "all", createCount, (button, [state, count]) => {
      button.ariaPressed = String((filter.state ?? "") === state);
      text(button.firstElementChild, count);
    });
  }

  function createCount([state]) {
    const [button, number, word] = ["button", "strong", "span"].map((tag) => create(tag));
    if (state) badge(word, "host", state);
    else word.textContent = t("fleet.all");
    button.append(number, word);
    button.onclick = () => filters.change({ state: filter.state === state ? "" : state });
    return button;
  }

  function drawPick({ hostname }, cell) {
    const box = Object.assign(only(cell, "input"), { type: "checkbox", ariaLabel: t("fleet.select_one", { name: hostname }), checked: picked.has(hostname) });
    box.onchange = () => {
      pick(hostname, box.checked);
      draw();
    };
  }

  function drawState(host, cell) {
    if (!cell.firstElementChild) cell.append(create("span"), " ", create("span"));
    const [state, mark] = cell.children;
    badge(state, "host", host.state);
    state.title = visible(because(host.state_cause));
    mark.title = visible(because(host.quarantine?.reason));
    if (host.quarantine) badge(mark, "mark", "quarantined");
    else mark.replaceChildren();
  }

  const load = () => attempt(part.list, read);

  async function read() {
    const asOf = await readHosts(context);
    isLoaded = true;
    draw();
    stream.follow(["hosts", "usage"], asOf, signal, load);
  }

  function update(next) {
    filter = next;
    filters.show(next);
    draw();
  }

  store.subscribe(["hosts"], draw, signal);
  update(params);
  load();
  return { update };
}

/** Take all hosts in; the position that they are of. */
export async function readHosts({ api, store, stream }) {
  let asOf = null;
  let cursor = null;
  do {
    const page = await api.get("/hosts", { limit: 1000, cursor, state: Object.keys(HOST).join(",") });
    asOf ??= page.as_of;
    stream.take("hosts", page.items);
    cursor = page.next_cursor;
  } while (cursor && store.all("hosts").length < MOST);
  return asOf;
}

async function addHost(place, context) {
  const { store, signal } = context;
  const { enrolment } = await import("./access.js");
  const before = new Set(store.all("hosts").map((host) => host.hostname));
  const panel = enrolment(context);
  panel.querySelector(".actions").append(create("button", t("shell.close"), { onclick: () => place.replaceChildren() }));
  place.replaceChildren(panel);
  store.subscribe(["hosts"], () => {
    const added = store.all("hosts").find((host) => !before.has(host.hostname) && host.state === "online");
    if (added && before.add(added.hostname)) toast(t("fleet.is_online", { name: added.hostname }));
  }, signal);
}
