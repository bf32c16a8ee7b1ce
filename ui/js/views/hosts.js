// The fleet: every host as it is now, by state and group; the start page.
import { visible } from "../ansi.js";
import { badge, empty, markQuarantine, meter, time } from "../components.js";
import { attempt, create, keyedList, make, permit, refs, text } from "../dom.js";
import { because, told } from "../i18n.js";
import { link } from "../router.js";
import { HOST } from "../states.js";

const MOST = 20_000;
const MOST_DRAWN = 500;

export function mountFleet(root, params, context) {
  const { store, stream, signal, t, title, navigate, user } = context;
  title(t("shell.fleet"));
  const part = make("fleet");
  root.replaceChildren(part.root);
  part.q.placeholder = t("fleet.filter");
  part.q.setAttribute("aria-label", t("fleet.filter"));
  part.group.setAttribute("aria-label", t("fleet.groups"));
  part.all.setAttribute("aria-label", t("fleet.select_all"));
  const picked = new Set();
  let filter = params;
  let isLoaded = false;
  let isFollowing = false;

  const change = (more) => navigate(link("/hosts", { q: filter.q, state: filter.state, group: filter.group, ...more }), { replace: true });
  part.q.addEventListener("input", () => change({ q: part.q.value }));
  part.group.addEventListener("change", () => change({ group: part.group.value }));
  text(part.run, t("run.title"));
  permit(part.add, user, "hosts.enrol");
  part.add.addEventListener("click", () => addHost(part.added, context));
  part.all.addEventListener("change", () => {
    for (const host of shown()) part.all.checked ? picked.add(host.hostname) : picked.delete(host.hostname);
    draw();
  });

  function matching() {
    const words = (filter.q ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    return store.all("hosts").filter((host) => (!filter.group || host.groups.includes(filter.group)) && words.every((word) => host.hostname.includes(word)));
  }

  function shown() {
    const states = filter.state ? filter.state.split(",") : Object.keys(HOST).filter((state) => state !== "retired");
    return matching().filter((host) => states.includes(host.state)).sort((a, b) => (a.hostname < b.hostname ? -1 : 1));
  }

  function draw() {
    if (!isLoaded) return;
    const hosts = shown();
    drawCounts(matching());
    drawGroups();
    keyedList(part.rows, hosts.slice(0, MOST_DRAWN), (host) => host.hostname, createRow, updateRow);
    part.panel.hidden = hosts.length === 0;
    part.empty.hidden = hosts.length > 0;
    if (!store.all("hosts").length) empty(part.empty, t("fleet.none"));
    else if (!hosts.length) empty(part.empty, t("fleet.no_match"), "/hosts", t("shell.clear"));
    else if (hosts.length > MOST_DRAWN) empty(part.empty, t("fleet.more", { n: hosts.length - MOST_DRAWN }));
    part.all.checked = hosts.length > 0 && hosts.every((host) => picked.has(host.hostname));
    const names = [...picked];
    part.run.href = names.length ? link("/run", { hosts: names.join(",") }) : link("/run", { group: filter.group });
    text(part.run, names.length ? t("fleet.run_on", { n: names.length }) : t("run.title"));
  }

  function drawCounts(hosts) {
    const counts = { "": hosts.filter((host) => host.state !== "retired").length };
    for (const state of Object.keys(HOST)) counts[state] = hosts.filter((host) => host.state === state).length;
    const wanted = Object.entries(counts).filter(([state, count]) => count > 0 || state === "" || state === filter.state);
    keyedList(part.counts, wanted, ([state]) => state || "all", createCount, (button, [state, count]) => {
      button.setAttribute("aria-pressed", String((filter.state ?? "") === state));
      text(refs(button).number ?? button.querySelector("strong"), String(count));
    });
  }

  function createCount([state]) {
    const [button, number, word] = ["button", "strong", "span"].map((tag) => create(tag));
    if (state) badge(word, "host", state);
    else word.textContent = t("fleet.all");
    button.append(number, word);
    button.addEventListener("click", () => change({ state: filter.state === state ? "" : state }));
    return button;
  }

  function drawGroups() {
    const groups = [...new Set(store.all("hosts").flatMap((host) => host.groups))].sort();
    const options = ["", ...groups];
    keyedList(part.group, options, (group) => group, () => create("option"), (option, group) => {
      option.value = group;
      text(option, group || t("fleet.all_groups"));
    });
    part.group.value = filter.group ?? "";
  }

  function createRow(host) {
    const row = make("fleet-row");
    row.host.href = `/hosts/${encodeURIComponent(host.hostname)}`;
    text(row.host, host.hostname);
    row.pick.setAttribute("aria-label", t("fleet.select_one", { name: host.hostname }));
    row.pick.addEventListener("change", () => {
      row.pick.checked ? picked.add(host.hostname) : picked.delete(host.hostname);
      draw();
    });
    return row.root;
  }

  function updateRow(element, host) {
    const row = refs(element);
    row.pick.checked = picked.has(host.hostname);
    badge(row.state, "host", host.state);
    row.state.title = visible(because(host.state_cause ?? ""));
    markQuarantine(row.quarantine, host);
    text(row.groups, host.groups.join(", ") + (host.drift ? ` ≠ ${(host.groups_bound ?? []).join(", ")}` : ""));
    meter(row.cpu, host.cpu_usage);
    meter(row.memory, host.memory_usage);
    time(row.heartbeat, host.last_heartbeat_at);
    text(row.agent, host.basic ? t("host.basic") : host.agent_version);
  }

  const load = () => attempt(part.list, read);

  async function read() {
    const asOf = await readHosts(context);
    isLoaded = true;
    draw();
    if (!isFollowing) stream.follow(["hosts", "usage"], asOf, signal, load);
    isFollowing = true;
  }

  function update(next) {
    filter = next;
    if (document.activeElement !== part.q) part.q.value = filter.q ?? "";
    draw();
  }

  store.subscribe(["hosts"], draw, signal);
  update(params);
  load();
  return { update };
}

/** Take all hosts in, as far as a tab holds them; the position that they are of. */
export async function readHosts({ api, store, stream, signal }) {
  let asOf = null;
  let cursor = null;
  do {
    const page = await api.get("/hosts", { query: { limit: 1000, cursor, state: Object.keys(HOST).join(",") }, signal });
    asOf ??= page.as_of;
    stream.take("hosts", page.items);
    cursor = page.next_cursor;
  } while (cursor && store.all("hosts").length < MOST);
  return asOf;
}

/** A single-use token, once it is asked for, and what to type on the new server; says when it is there. */
function addHost(place, { api, store, signal, t, toast, user }) {
  const panel = make("add-host");
  const before = new Set(store.all("hosts").map((host) => host.hostname));
  const { hostname, groups, submit } = panel.ask.elements;
  panel.ask.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    const asked = { hostname: hostname.value.trim() || null, groups: groups.value.split(/[\s,]+/).filter(Boolean) };
    try {
      const { command } = await api.post("/enrolment-tokens", asked, { signal });
      panel.command.textContent = `${command}\ncontrol-plane-agent run`;
      panel.ask.hidden = true;
      panel.made.hidden = false;
    } catch (error) {
      submit.disabled = false;
      toast(told(error), "bad");
    }
  });
  panel.wait.textContent = t("fleet.waiting");
  panel.dev.hidden = !user.dev;
  panel.copy.addEventListener("click", () => navigator.clipboard.writeText(panel.command.textContent));
  panel.close.addEventListener("click", () => place.replaceChildren());
  store.subscribe(["hosts"], () => {
    const added = store.all("hosts").find((host) => !before.has(host.hostname) && host.state === "online");
    if (added) panel.wait.textContent = t("fleet.is_online", { name: added.hostname });
  }, signal);
  place.replaceChildren(panel.root);
  hostname.focus();
}
