// The shell: who is signed in, which page it is, in which language, and how live it is.
/** @import {Context, Me, Opened, Page, Params, Parts, Problem, StreamState} from "./app.js" */
import * as api from "./api.js";
import { visible } from "./ansi.js";
import { announce, around, create, every, make, one, problem, text, toast, translate } from "./dom.js";
import { clock } from "./format.js";
import { language, load, preferred, t, told } from "./i18n.js";
import { apply as applyPreferences, preference, remembered, wouldLose } from "./preferences.js";
import { inMoment, match, moment, safeNext } from "./router.js";
import { addSymbols } from "./shapes.js";
import { listen as listenForKeys } from "./shortcuts.js";
import * as stream from "./stream.js";
import * as store from "./store.js";
import * as login from "./views/login.js";

/** @type {{mount(part: Parts["unknown"], params: Params): void}} */
const unknown = { mount: ({ why }, { permission }) => text(why, t(permission ? "shell.needs" : "shell.no_page", { permission })) };
/** Loaded when they are first opened, or while nothing else is to be done.
 * @type {Record<string, () => Page | Promise<Page>>} */
const PAGES = {
  login: () => login,
  fleet: () => import("./views/hosts.js"),
  host: () => import("./views/host.js"),
  run: () => import("./views/run.js"),
  tasks: () => import("./views/tasks.js"),
  task: () => import("./views/task.js"),
  audit: () => import("./views/audit.js"),
  access: () => import("./views/access.js"),
  system: () => import("./views/system.js"),
  unknown: () => unknown,
};
/** @type {Record<string, string>} */
const MENU = { host: "fleet", task: "tasks" };
const RETRY_MS = 5_000;
const KEPT_MS = 300; // what was shown, until the same page as of another moment is there
const UNREAD_MS = 1_000; // then what there is of a page is shown, whatever is still to come
const IS_PAST = moment() !== null; // for good: another document is opened to leave
const BUILD = new URL(import.meta.url).pathname.split("/")[2]; // of /ui/<build>/js/main.js
const FOR_EVER = new AbortController().signal;
/** @param {string} id */
const element = (id) => one(document, `#${id}`, HTMLElement);
/** @param {ParentNode} root @param {string} selector @returns {HTMLAnchorElement[]} */
const links = (root, selector) => [...root.querySelectorAll(selector)].filter((link) => link instanceof HTMLAnchorElement);

/** @type {?Me} */
let user = null;
/** @type {?Opened} */
let current = null;
let named = ""; // what the page calls itself
/** The module of the bar. @type {?typeof import("./replay.js")} */
let replay = null;
/** @type {?ReturnType<typeof import("./replay.js").mount>} */
let bar = null;

/** @type {Context["navigate"]} */
export function navigate(path, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", inMoment(path));
  return show();
}

async function show() {
  const at = moment();
  if ((at !== null) !== IS_PAST) return location.reload();
  let { name, params } = match(location.pathname, location.search);
  if (!user && name !== "login") return navigate(`/login?next=${encodeURIComponent(location.pathname + location.search)}`, { replace: true });
  const [refused] = links(element("nav"), `[data-page="${MENU[name] ?? name}"][hidden]`);
  if (refused) [name, params] = ["unknown", { permission: refused.dataset.needs }]; // to ask would be recorded
  const [path, search] = [location.pathname, location.search]; // another task, or another host, is another page
  if (current?.name === name && current.path === path && current.at === at) {
    if (current.search === search) return; // a part of the page was gone to: what is typed or shown once stays
    current.search = search;
    if (current.update) return current.update(params);
  }
  const before = current;
  before?.controller.abort();
  // What is asked there can have no answer any more; who is asked to sign in may be so on the way to another page.
  for (const dialog of document.querySelectorAll("dialog")) if (!dialog.querySelector(".login")) dialog.close();
  const controller = new AbortController();
  /** @type {Opened} */
  const opened = (current = { name, path, search, at, controller });
  stream.opened(name === "login" || IS_PAST ? null : Date.now());
  element("shell").classList.toggle("center-page", name === "login");
  for (const link of links(element("nav"), "a")) link.ariaCurrent = link.dataset.page === (MENU[name] ?? name) ? "page" : null;
  const root = element("main");
  const part = make(/** @type {keyof Parts} */ (name));
  try {
    const [page] = await Promise.all([PAGES[name](), bar?.show(at)]);
    if (current !== opened) return;
    if (IS_PAST) store.clear();
    const isStep = before?.name === name && before.at !== at;
    if (!isStep) put(part.root, name);
    const read = whenRead(part.root, isStep ? KEPT_MS : UNREAD_MS);
    opened.update = page.mount(part, params, contextOf(controller.signal))?.update;
    if (!isStep) return void read().then(() => part.root.classList.remove("unread"));
    await read();
    if (current === opened) replace(root, part.root);
  } catch (error) {
    if (current === opened) problem(root, error, () => location.reload());
  }
}

/** @param {HTMLElement} page @param {string} name */
function put(page, name) {
  title(t(`title.${name}`));
  announce(t(`title.${name}`)); // what the page calls itself may be a host's words
  page.classList.add("unread");
  element("main").style.removeProperty("--kept");
  element("main").replaceChildren(page);
  const first = page.querySelector("[autofocus]") ?? page.querySelector("h1");
  if (first instanceof HTMLElement) first.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

/** By the same page as of another moment, which at first may be shorter: nothing scrolls for that.
 * @param {HTMLElement} root @param {HTMLElement} page */
function replace(root, page) {
  root.style.setProperty("--kept", `${one(root, ":scope > *", HTMLElement).offsetHeight}px`);
  root.replaceChildren(page);
}

/** What waits until every place that a page reads when it is opened is there, so that none pushes another away.
 * @param {HTMLElement} page @param {number} mostMs @returns {() => Promise<void>} */
function whenRead(page, mostMs) {
  const unread = new Set();
  /** @type {PromiseWithResolvers<void>} */
  const { promise, resolve } = Promise.withResolvers();
  page.addEventListener("reading", ({ target }) => unread.add(target));
  for (const end of ["filled", "failed"]) {
    page.addEventListener(end, ({ target }) => {
      unread.delete(target);
      if (!unread.size) resolve();
    });
  }
  return () => {
    if (!unread.size) resolve();
    setTimeout(resolve, mostMs);
    return promise;
  };
}

/** @param {string} words */
function title(words) {
  named = visible(words);
  drawTitle();
}

function drawTitle() {
  const count = isOpen() ? countRunning() : 0;
  const wanted = `${count ? `(${count}) ` : ""}${named} · Control plane`;
  if (document.title !== wanted) document.title = wanted;
}

/** @param {Me} me @param {string} [next] */
function signedIn(me, next) {
  setUser(me);
  navigate(safeNext(next), { replace: true });
}

/** Of a page of somebody: that where one signs in asks for no user. @param {AbortSignal} signal @returns {Context} */
const contextOf = (signal) => ({ ...SHARED, api: api.during(signal), signal, user: /** @type {Me} */ (user) });
const SHARED = { stream: IS_PAST ? { ...stream, follow() {}, watch: () => () => {} } : stream, store, navigate, title, signedIn };

/** @param {?Me} me */
function setUser(me) {
  const isFirst = me && !user;
  user = me;
  api.setSession(me?.csrf_token ?? null);
  text(element("who"), me?.username);
  element("dev").hidden = !me?.dev;
  element("logout").hidden = !me;
  for (const link of links(element("nav"), "[data-needs]")) link.hidden = !me?.permissions.includes(link.dataset.needs ?? "");
  if (!isFirst) return;
  element("search").addEventListener("focus", openSearch, { once: true });
  if (replay) return void (bar = replay.mount(element("past"), contextOf(FOR_EVER)));
  store.subscribe(["tasks"], drawRunning, FOR_EVER);
  followRunning();
  followNotices();
}

async function followNotices() {
  const { followStop, followWaiting } = await import("./notices.js");
  followWaiting(element("waiting"), contextOf(FOR_EVER));
  followStop(element("stopped"), contextOf(FOR_EVER));
}

/** Over the page, which keeps what was typed. @param {?Problem} refused */
function signInAgain(refused) {
  const dialog = create("dialog");
  const part = make("login");
  const asking = new AbortController();
  dialog.append(part.root);
  document.body.append(dialog);
  return new Promise((resolve, reject) => {
    /** @template V @param {(value: V) => void} settle @param {V} value */
    const end = (settle, value) => {
      asking.abort();
      dialog.onclose = null;
      dialog.close(); // which gives the focus back
      dialog.remove();
      settle(value);
    };
    dialog.onclose = () => {
      if (refused) end(reject, refused);
      else if (dialog.isConnected) dialog.showModal(); // Escape may close it all the same
    };
    /** @param {Me} me */
    const signedIn = (me) => {
      if (me.username !== user?.username) return location.reload();
      setUser(me);
      end(resolve, null);
    };
    part.cancel.hidden = !refused;
    part.cancel.onclick = () => dialog.close();
    login.mount(part, {}, { ...contextOf(asking.signal), signedIn, refused });
    dialog.showModal();
  });
}

async function followRunning() {
  if (!user?.permissions.includes("tasks.read")) return;
  try {
    let [asOf, cursor] = ["", /** @type {?string | undefined} */ (null)];
    do {
      const page = await api.during(FOR_EVER).get("/tasks", { state: "running,paused,cancelling", limit: 1000, cursor });
      stream.take("tasks", page.items);
      asOf ||= page.as_of;
      cursor = page.next_cursor;
    } while (cursor);
    stream.follow(["tasks"], asOf, FOR_EVER, followRunning);
  } catch (error) {
    if (!isRefused(error)) setTimeout(followRunning, RETRY_MS);
  }
}

const countRunning = () => store.all("tasks").filter(({ state }) => state !== "finished").length;

const isOpen = () => ["live", "behind"].includes(stream.liveness(stream.state, Date.now()).kind);

function drawRunning() {
  text(element("running"), countRunning() || "");
  drawTitle();
}

async function openSearch() {
  const { mount } = await import("./search.js");
  mount(one(document, "#search", HTMLInputElement), element("found"), contextOf(FOR_EVER));
}

/** @param {StreamState} state */
function drawPill(state) {
  const { kind, n, since } = stream.liveness(state, Date.now());
  const time = since && clock(since, language);
  const pill = element("pill");
  pill.dataset.kind = kind;
  const isIdle = user !== null && !stream.isFollowed() && kind !== "live"; // there is nothing that could come
  pill.hidden = isIdle;
  text(pill, t(`shell.stream_${kind}`, { n, time }));
  drawTitle();
  const isStale = kind === "offline" && !isIdle && !document.hidden;
  element("stale").hidden = !isStale;
  document.body.classList.toggle("stale-data", isStale || kind === "waiting");
  if (isStale) text(element("stale"), t("shell.stale", { time }));
}

/** A newer page is loaded while nobody looks, unless something would be lost. */
function followBuild() {
  let isOld = false;
  const load = () => {
    if (isOld && document.hidden && !document.querySelector("dialog") && !wouldLose()) location.reload();
  };
  stream.onState(({ ping }) => {
    if (isOld || !ping || ping.build === BUILD) return;
    isOld = true;
    toast(t("shell.newer"));
    load();
  });
  document.addEventListener("visibilitychange", load);
  document.addEventListener("input", (event) => {
    const form = around(event, "form");
    if (form) form.dataset.filled = "";
  });
}

async function signOut() {
  try {
    await api.enter("/auth/logout");
  } catch (error) {
    if (!isSignedOut(error)) return toast(told(error), "bad"); // a 401: it has ended already
  }
  location.assign("/login");
}

/** @param {unknown} error */
const isSignedOut = (error) => error instanceof api.Problem && error.status === 401;

/** @param {unknown} error */
const isRefused = (error) => error instanceof api.Problem && error.status === 403;

/** @param {keyof typeof import("./panels.js")} name */
const panel = (name) => async () => (await import("./panels.js"))[name]();

function followLinks() {
  /** @param {Event} event */
  const pageOf = (event) => {
    const link = around(event, "a[href]");
    return link instanceof HTMLAnchorElement && link.origin === location.origin && !link.hash && !/^\/(api|ui)\//.test(link.pathname) ? link : null;
  };
  document.addEventListener("click", (event) => {
    const link = pageOf(event);
    const isPlain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.defaultPrevented;
    if (!link || !isPlain || link.target) return;
    event.preventDefault();
    navigate(link.pathname + link.search);
  });
  document.addEventListener("pointerdown", (event) => {
    const link = IS_PAST && pageOf(event); // which may open it in another tab
    if (link) link.href = inMoment(link.href);
  });
  window.addEventListener("popstate", show);
}

async function start() {
  applyPreferences();
  await load(preferred(remembered("language"), navigator.languages));
  addSymbols();
  translate(document);
  if (!window.isSecureContext) return text(element("main"), t("shell.insecure"));
  element("logout").onclick = signOut;
  element("preferences").onclick = panel("preferences");
  /** @type {Record<string, () => unknown>} */
  const steps = IS_PAST ? { "[": () => bar?.keys["["](), "]": () => bar?.keys["]"]() } : {};
  listenForKeys({ "?": panel("help"), ...steps }, () => preference("shortcuts") !== "off");
  followLinks();
  if (IS_PAST) await showPast();
  else showLive();
  api.onSignedOut(signInAgain);
  if (location.hash.startsWith("#/login?")) history.replaceState(null, "", location.hash.slice(1));
  try {
    setUser(match(location.pathname).name === "login" ? null : await api.during(FOR_EVER).look("/auth/me"));
  } catch (error) {
    if (!isSignedOut(error)) return problem(element("main"), error, () => location.reload());
    setUser(null);
  }
  await show();
  performance.mark("ready");
  requestIdleCallback(() => Object.values(PAGES).forEach((load) => load()));
}

function showLive() {
  stream.onState(drawPill);
  drawPill(stream.state);
  every(1000, () => drawPill(stream.state), FOR_EVER);
  element("pill").onclick = panel("connection");
  followBuild();
}

/** What is shown is read once and written never; the bar leads to other moments, and back. */
async function showPast() {
  document.body.classList.add("past");
  element("pill").hidden = true;
  replay = await import("./replay.js");
}

start();
