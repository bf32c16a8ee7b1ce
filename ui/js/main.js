// The shell: who is signed in, which page it is, in which language, and how live it is.
import * as api from "./api.js";
import { visible } from "./ansi.js";
import { problem, text, toast, translate } from "./dom.js";
import { duration } from "./format.js";
import { language, load, preferred, t, told } from "./i18n.js";
import { match, safeNext } from "./router.js";
import { listen as listenForKeys } from "./shortcuts.js";
import * as stream from "./stream.js";
import * as store from "./store.js";
import { mount as mountLogin } from "./views/login.js";
import { mountFleet } from "./views/hosts.js";
import { mountHost } from "./views/host.js";
import { mount as mountRun } from "./views/run.js";
import { mountList } from "./views/tasks.js";
import { mountTask } from "./views/task.js";
import { mount as mountAudit } from "./views/audit.js";
import { mount as mountSystem } from "./views/system.js";

const VIEWS = { login: mountLogin, fleet: mountFleet, host: mountHost, run: mountRun, tasks: mountList, task: mountTask, audit: mountAudit, system: mountSystem };
const PAGES = { fleet: "hosts", host: "hosts", run: "run", tasks: "tasks", task: "tasks", audit: "audit", system: "system" };
const RETRY_MS = 5_000;
const BUILD = new URL(import.meta.url).pathname.split("/")[2]; // of /ui/<build>/js/main.js
const element = (id) => document.getElementById(id);

let user = null;
let current = null; // {name, controller, update}

export function navigate(path, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", path);
  show();
}

function show() {
  const { name, params } = match(location.pathname, location.search);
  if (!user && name !== "login") return navigate(`/login?next=${encodeURIComponent(location.pathname + location.search)}`, { replace: true });
  if (current?.name === name && current.update) return current.update(params);
  current?.controller.abort();
  const controller = new AbortController();
  current = { name, controller };
  stream.opened(name === "login" ? null : Date.now());
  element("shell").classList.toggle("center-page", name === "login");
  for (const link of element("nav").querySelectorAll("a")) {
    if (link.dataset.page === PAGES[name]) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const root = element("main");
  const context = { signal: controller.signal, api, stream, store, t, toast, user, navigate, title, signedIn };
  try {
    const view = VIEWS[name](root, params, context);
    current.update = view?.update;
  } catch (error) {
    problem(root, error, show);
  }
  (root.querySelector("[autofocus]") ?? root.querySelector("h1"))?.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function title(words) {
  document.title = `${visible(words)} · Control plane`;
}

async function signedIn(me, next) {
  setUser(me);
  navigate(safeNext(next), { replace: true });
}

function setUser(me) {
  const isFirst = me && !user;
  user = me;
  api.setSession(me?.csrf_token ?? null);
  text(element("who"), me?.username);
  element("dev").hidden = !me?.dev;
  element("logout").hidden = !me;
  if (isFirst) followRunning();
}

/** Sign in again over the page, which keeps what was typed there; somebody else gets a page of their own. */
function signInAgain() {
  const dialog = document.createElement("dialog");
  document.body.append(dialog);
  // Escape may close it all the same, and without a session nothing goes on.
  dialog.addEventListener("close", () => dialog.isConnected && dialog.showModal());
  const asking = new AbortController();
  return new Promise((resolve) => {
    const signedInAgain = (me) => {
      if (me.username !== user.username) return location.reload();
      asking.abort();
      setUser(me);
      dialog.remove();
      resolve();
    };
    mountLogin(dialog, {}, { api, signal: asking.signal, t, title: () => {}, user, signedIn: signedInAgain });
    dialog.showModal();
  });
}

/** The number of running tasks beside their page's name, as long as this page lives. */
async function followRunning() {
  const never = new AbortController().signal;
  store.subscribe(["tasks"], drawRunning, never);
  stream.follow(["tasks"], await readRunning(), never, readRunning);
}

function drawRunning() {
  const count = store.all("tasks").filter((task) => task.state !== "finished").length;
  text(element("running"), count ? String(count) : "");
}

/** Take the running tasks in, however often that has to be tried; the position that they are of. */
async function readRunning() {
  try {
    const page = await api.get("/tasks", { query: { state: "running,paused,cancelling", limit: 100 } });
    stream.take("tasks", page.items);
    return page.as_of;
  } catch {
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    return readRunning();
  }
}

function drawPill(state) {
  const { kind, n, since } = stream.liveness(state, Date.now());
  const time = since && new Date(since).toLocaleTimeString(language);
  const { heads, lag, build } = state.ping ?? {};
  const pill = element("pill");
  pill.dataset.kind = kind;
  pill.title = heads ? t("shell.pill", { position: heads.event, lag: duration(lag.seconds * 1000), build }) : "";
  text(pill, t(`shell.stream_${kind}`, { n, time }));
  const isStale = kind === "offline" && !document.hidden;
  element("stale").hidden = !isStale;
  document.body.classList.toggle("stale-data", isStale || kind === "waiting");
  if (isStale) text(element("stale"), t("shell.stale", { time }));
}

/** A server of another build has another page. It is loaded while nobody looks, unless something would be lost. */
function followBuild() {
  let isOld = false;
  const load = () => {
    if (isOld && document.hidden && !document.querySelector("dialog, form[data-filled], .once, tbody input:checked")) location.reload();
  };
  stream.onState(({ ping }) => {
    if (isOld || !ping || ping.build === BUILD) return;
    isOld = true;
    toast(t("shell.newer"));
    load();
  });
  document.addEventListener("visibilitychange", load);
  document.addEventListener("input", ({ target }) => {
    if (target.form) target.form.dataset.filled = "";
  });
}

async function signOut() {
  try {
    await api.post("/auth/logout", {}, { asksToSignIn: false });
  } catch (error) {
    if (error.status !== 401) return toast(told(error), "bad"); // a 401: it has ended already
  }
  location.assign("/login");
}

function remembered(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function preferences() {
  const theme = element("theme");
  theme.value = remembered("theme") ?? "";
  const apply = () => {
    if (theme.value) document.documentElement.dataset.theme = theme.value;
    else delete document.documentElement.dataset.theme;
  };
  apply();
  theme.addEventListener("change", () => {
    localStorage.setItem("theme", theme.value);
    apply();
  });
  element("language").value = language;
  element("language").addEventListener("change", (event) => {
    localStorage.setItem("language", event.target.value);
    location.reload();
  });
  element("logout").addEventListener("click", signOut);
}

function followLinks() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    const isPlain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.defaultPrevented;
    if (!link || !isPlain || link.target || link.origin !== location.origin || link.hash) return;
    if (link.pathname.startsWith("/api/") || link.pathname.startsWith("/ui/")) return;
    event.preventDefault();
    navigate(link.pathname + link.search);
  });
  window.addEventListener("popstate", show);
}

async function start() {
  await load(preferred(remembered("language"), navigator.languages));
  translate(document);
  if (!window.isSecureContext) return text(element("main"), t("shell.insecure"));
  preferences();
  listenForKeys(navigate);
  followLinks();
  stream.onState(drawPill);
  drawPill(stream.state);
  setInterval(() => drawPill(stream.state), 1000);
  element("pill").addEventListener("click", stream.connect);
  followBuild();
  api.onSignedOut(signInAgain);
  try {
    setUser(match(location.pathname).name === "login" ? null : await api.get("/auth/me", { asksToSignIn: false }));
  } catch (error) {
    if (error.status !== 401) return problem(element("main"), error, () => location.reload());
    setUser(null);
  }
  show();
  performance.mark("ready");
}

start();
