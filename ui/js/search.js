// One field that leads to a host, a task or a page by how it begins. Loaded when it is first used.
/** @import {Context, Found} from "./app.js" */
import { create, keyedList, successive, text } from "./dom.js";
import { t } from "./i18n.js";
import { hostPath, taskPath } from "./router.js";
import { by } from "./states.js";

const TYPING_MS = 120;
const MOST = 8; // of each kind
const HOSTNAME = /^[a-z0-9][a-z0-9._-]*$/i;
const TASK_ID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** @param {HTMLInputElement} field @param {HTMLElement} list @param {Context} context */
export function mount(field, list, { api, store, signal, navigate, user }) {
  const nextSignal = successive(signal);
  /** @type {Found[]} */
  let found = [];
  let active = 0;
  let timer = 0;
  let asked = ""; // what the hosts that are known begin with
  /** @type {string[]} */
  let hostnames = [];

  const isOpen = () => !list.hidden;

  function search() {
    const typed = field.value.trim().toLowerCase();
    found = typed ? [...pagesOf(typed), ...hostsOf(typed), ...tasksOf(typed)] : [];
    active = Math.min(active, Math.max(0, found.length - 1));
    draw(typed);
  }

  /** @param {string} typed @returns {Found[]} */
  function pagesOf(typed) {
    const links = [...document.querySelectorAll("#nav a:not([hidden])")].filter((link) => link instanceof HTMLAnchorElement);
    const pages = links.map(({ pathname: path, firstElementChild: first, dataset }) => ({ path, words: first?.textContent ?? "", name: dataset.page }));
    const wanted = pages.filter(({ words, name }) => words.toLowerCase().startsWith(typed) || name?.startsWith(typed));
    return wanted.map(({ path, words }) => ({ path, words, kind: t("search.page") }));
  }

  /** @param {string} typed @returns {Found[]} */
  function hostsOf(typed) {
    const names = new Set([...store.all("hosts").map(({ hostname }) => hostname), ...hostnames]);
    const wanted = [...names].filter((name) => name.startsWith(typed)).sort();
    return wanted.slice(0, MOST).map((name) => ({ path: hostPath(name), words: name, kind: t("search.host") }));
  }

  /** @param {string} typed @returns {Found[]} */
  function tasksOf(typed) {
    const known = store.all("tasks").filter(({ task_id: id }) => id.toLowerCase().startsWith(typed)).sort(by("task_id"));
    const ids = known.slice(0, MOST).map((task) => task.task_id);
    if (!ids.length && TASK_ID.test(typed)) ids.push(typed);
    return ids.map((id) => ({ path: taskPath(id), words: id, kind: t("search.task") }));
  }

  /** Hosts that the page does not know yet. */
  async function ask() {
    const typed = field.value.trim().toLowerCase();
    if (typed === asked || !HOSTNAME.test(typed) || !user.permissions.includes("hosts.read")) return;
    try {
      const { items } = await api.get("/hosts", { q: typed, limit: 50 }, nextSignal());
      [asked, hostnames] = [typed, items.map(({ hostname }) => hostname)];
      if (isOpen()) search();
    } catch {
      // What the page knows is shown; the next letter asks again.
    }
  }

  /** @param {string} typed */
  function draw(typed) {
    list.hidden = !typed || document.activeElement !== field;
    field.ariaExpanded = String(isOpen());
    const shown = found.length ? found : [{ path: "", words: t("search.none"), kind: "" }];
    keyedList(list, shown, ({ path }) => path, createOption, (option, { words, kind }) => {
      const [name, about] = option.children;
      text(name, words);
      text(about, kind);
    });
    for (const [place, option] of [...list.children].entries()) option.ariaSelected = String(place === active && found.length > 0);
    if (isOpen() && found.length) field.setAttribute("aria-activedescendant", list.children[active].id);
    else field.removeAttribute("aria-activedescendant");
  }

  /** @param {Found} item */
  function createOption({ path }) {
    const option = create("li", "", { role: "option", id: `found-${path}`, ariaDisabled: path ? null : "true" });
    option.append(create("span"), create("span", "", { className: "muted small" }));
    option.onpointerdown = (event) => event.preventDefault(); // the field keeps the focus
    option.onclick = () => path && go(path);
    return option;
  }

  function close() {
    found = [];
    draw("");
  }

  /** @param {string} path */
  function go(path) {
    field.value = "";
    close();
    field.blur();
    navigate(path);
  }

  /** @param {number} step */
  function move(step) {
    if (found.length) active = (active + step + found.length) % found.length;
    draw(field.value.trim());
    list.children[active]?.scrollIntoView({ block: "nearest" });
  }

  async function enter() {
    if (!found.length) await ask();
    if (found[active]) go(found[active].path);
  }

  /** @type {Record<string, () => unknown>} */
  const keys = { ArrowDown: () => move(1), ArrowUp: () => move(-1), Enter: enter, Escape: leave };

  function leave() {
    if (isOpen()) return close();
    field.value = "";
    field.blur();
  }

  field.onkeydown = (event) => {
    if (event.isComposing || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  };
  const typing = () => {
    active = 0;
    search();
    clearTimeout(timer);
    timer = setTimeout(ask, TYPING_MS);
  };
  field.oninput = typing;
  field.onfocus = () => field.value && search();
  field.onblur = close;
  if (field.value) typing();
}
