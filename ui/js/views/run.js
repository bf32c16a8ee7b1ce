// Run a command: choose where, say what, see exactly which hosts that is, then send it.
import { visible } from "../ansi.js";
import { FIRST_HOSTS, badge, confirmRun, timeNode } from "../components.js";
import { attempt, create, facts, keyedList, make, permit, text } from "../dom.js";
import { duration } from "../format.js";
import { fold } from "../hostlist.js";
import { because, told } from "../i18n.js";
import { readHosts } from "./hosts.js";

const PREVIEW_MS = 400;
const RENEW_LEAST_MS = 5_000;
const MOST_OFFERED = 1_000;
const ROLLOUT = ["max_concurrency", "max_errors", "canary", "wait"];
const AWAY = ["stale", "offline", "pending"];

export function mount(root, params, context) {
  const { api, store, stream, signal, t, title, navigate } = context;
  title(t("run.title"));
  const part = make("run");
  const form = part.root;
  root.replaceChildren(form);
  const inputs = form.elements;
  const mayRun = permit(part.submit, context.user, "tasks.run");
  // Made beforehand, so that a second click, or one after a lost answer, sends the same id and starts nothing twice.
  let taskId = crypto.randomUUID();
  let preview = null;
  const states = create("div", { className: "row" });
  let timer = 0;
  let round = 0;
  let isFollowing = false;

  function target() {
    const kind = inputs.kind.value;
    if (kind === "all") return { all: true };
    if (kind === "host" && inputs.host.value.trim()) return { host: inputs.host.value.trim() };
    if (kind === "group" && inputs.group.value) return { group: inputs.group.value };
    const names = inputs.hosts.value.split(/[\s,]+/).filter(Boolean);
    return kind === "hosts" && names.length ? { hosts: names } : null;
  }

  function request() {
    const reason = inputs.reason.value.trim();
    return {
      task_id: taskId,
      target: target(),
      command: inputs.command.value.trim(),
      user: inputs.user.value.trim(),
      timeout: Number(inputs.timeout.value),
      when_offline: inputs.when_offline.value,
      ...(reason && { reason }),
      ...(params.expires_in && { expires_in: numberOr(params.expires_in) }),
      ...rollout(),
    };
  }

  /** Little by little, where something of that is said; else to all hosts at once. */
  function rollout() {
    const atOnce = inputs.max_concurrency.value.trim();
    const errors = inputs.max_errors.value.trim();
    const canary = inputs.canary.value.split(/[\s,]+/).filter(Boolean);
    const wait = inputs.wait.value;
    if (!atOnce && !errors && !canary.length && !wait) return {};
    const said = {
      ...(atOnce && { max_concurrency: numberOr(atOnce) }),
      ...(errors && { max_errors: numberOr(errors) }),
      ...(canary.length && { canary: /^\d+$/.test(canary[0]) && canary.length === 1 ? Number(canary[0]) : canary }),
      ...(wait && { wait: numberOr(wait) }), // without a canary the server says what is missing
    };
    return { rollout: said };
  }

  function changed() {
    for (const kind of ["host", "group", "hosts"]) part[`${kind}Field`].hidden = inputs.kind.value !== kind;
    preview = null;
    round += 1; // an answer to what was asked before counts no more
    drawButton();
    clearTimeout(timer);
    if (!mayRun) return part.preview.replaceChildren(t("shell.needs", { permission: "tasks.run" })); // to ask would be recorded
    if (!target()) return part.preview.replaceChildren(t("run.choose"));
    timer = setTimeout(load, PREVIEW_MS);
  }

  const load = () => attempt(part.preview, look);

  async function look() {
    const asked = round;
    const { target: where, command, user } = request();
    try {
      const found = await api.post("/targets/preview", { target: where, user, ...(command && { command }) }, { signal });
      if (asked !== round) return;
      preview = found;
      drawPreview();
      clearTimeout(timer);
      timer = setTimeout(renew, Math.max(RENEW_LEAST_MS, Date.parse(preview.expires_at) - stream.now() + 1000));
    } catch (error) {
      if (asked !== round) return;
      if (!isRefused(error)) throw error;
      preview = null;
      part.preview.replaceChildren(wrong(told(error)));
    }
    drawButton();
  }

  /** A preview that has ended is made again, if somebody looks at it. */
  function renew() {
    if (preview && !document.hidden && Date.parse(preview.expires_at) <= stream.now()) load();
  }

  function drawPreview() {
    drawStates();
    const list = create("dl", { className: "facts" });
    const hosts = create("code", { textContent: fold(preview.hosts.slice(0, FIRST_HOSTS)) + (preview.count > FIRST_HOSTS ? " …" : "") });
    const leftOut = preview.excluded.map(({ hostname, reason }) => `${hostname}: ${because(reason)}`).join("; ");
    const ends = timeNode(preview.expires_at);
    const isNamed = ["host", "hosts"].includes(inputs.kind.value); // then somebody wanted just those
    ends.role = "timer"; // which is not read out as it goes
    facts(list, [
      [t("run.exactly", { n: preview.count }), hosts],
      [t("run.left_out"), isNamed ? null : leftOut],
      [t("run.guard"), preview.guard.rules.length ? `${preview.guard.level}: ${preview.guard.rules.map(because).join(", ")}` : null],
      [t("run.valid"), ends],
      [t("run.expires_in"), params.expires_in && duration(params.expires_in * 1000)],
    ]);
    const kept = quarantinedText().map(wrong);
    part.preview.replaceChildren(...kept, ...(isNamed && leftOut ? [wrong(t("run.left_out_named", { hosts: leftOut }))] : []), states, list);
  }

  /** Its hosts by their state as it is now; as the preview has them where not all of them are known here. */
  function countStates() {
    const now = Object.groupBy(preview.hosts, (hostname) => store.one("hosts", hostname)?.state ?? "");
    return now[""] ? Object.entries(preview.by_state) : Object.entries(now).map(([state, hosts]) => [state, hosts.length]);
  }

  function drawStates() {
    if (!preview) return;
    keyedList(states, countStates(), ([state]) => state, () => create("span"), (place, [state, count]) => {
      badge(place, "host", state, `${count} ${t(`state.host.${state}`)}`);
    });
  }

  function drawButton() {
    const isReady = preview !== null && preview.count > 0 && inputs.command.value.trim() !== "";
    part.submit.disabled = !isReady;
    text(part.submit, preview?.count ? t("run.submit", { n: preview.count }) : t("run.submit_none"));
    text(part.why, mayRun && !isReady ? missing() : "");
  }

  /** Which of its hosts no command goes to. */
  function quarantinedText() {
    const hosts = preview.quarantined;
    return hosts.length ? [t("run.quarantined", { n: hosts.length, hosts: fold(hosts.slice(0, FIRST_HOSTS)) })] : [];
  }

  /** How many of its hosts may not be there, and what becomes of the command then. */
  function awayText(whenOffline) {
    const away = countStates().filter(([state]) => AWAY.includes(state));
    const n = away.reduce((sum, [, count]) => sum + count, 0);
    const words = away.map(([state, count]) => `${count} ${t(`state.host.${state}`)}`).join(", ");
    return n ? [t(`run.away_${whenOffline}`, { n, states: words })] : [];
  }

  /** What the button waits for; nothing where it is only the preview that is on its way. */
  function missing() {
    if (!target()) return t("run.choose");
    if (inputs.command.value.trim() === "") return t("run.no_command");
    return preview?.count === 0 ? t("run.no_host") : "";
  }

  async function send(event) {
    event.preventDefault();
    if (part.submit.disabled || !mayRun) return;
    part.error.textContent = "";
    const asked = { ...request(), preview_id: preview.preview_id };
    const little = asked.rollout ? [t("run.confirm_rollout")] : [];
    const body = await confirmRun(preview, asked, [...little, ...quarantinedText(), ...awayText(asked.when_offline)]);
    if (!body) return;
    part.submit.disabled = true;
    try {
      const { task } = await api.post("/tasks", body, { signal });
      stream.take("tasks", [task]);
      navigate(`/tasks/${encodeURIComponent(task.task_id)}`);
    } catch (error) {
      if (error.name === "AbortError") return;
      showError(error);
    }
  }

  function showError(error) {
    for (const element of form.querySelectorAll("[aria-invalid]")) element.removeAttribute("aria-invalid");
    for (const { field } of error.errors) markWrong(field);
    text(part.error, told(error));
    if (isRefused(error)) changed(); // whatever it was, the preview that was sent may not hold any more
    else drawButton();
  }

  function markWrong(field) {
    const name = field.split(".").find((part) => inputs[part] instanceof HTMLElement);
    inputs[name]?.setAttribute("aria-invalid", "true");
    if (field.startsWith("rollout")) part.rollout.open = true;
  }

  async function readTargets() {
    const [groups, asOf] = await Promise.all([api.get("/groups", { signal }), readHosts(context)]);
    if (!isFollowing) stream.follow(["hosts"], asOf, signal, () => attempt(part.targets, () => readHosts(context)));
    isFollowing = true;
    keyedList(inputs.group, groups.items, (row) => row.group, () => create("option"), (option, row) => {
      option.value = row.group;
      text(option, `${row.group} (${row.hosts})`);
    });
    keyedList(form.querySelector("#known-hosts"), store.all("hosts").slice(0, MOST_OFFERED), (host) => host.hostname, () => create("option"), (option, host) => {
      option.value = host.hostname;
    });
    inputs.group.value = params.group ?? groups.items[0]?.group ?? "";
    changed();
  }

  function prefill() {
    const kind = params.hosts ? "hosts" : params.host ? "host" : params.group ? "group" : params.all ? "all" : "";
    inputs.kind.value = kind;
    inputs.host.value = params.host ?? "";
    inputs.hosts.value = (params.hosts ?? "").replaceAll(",", " ");
    inputs.command.value = params.command ?? "";
    inputs.user.value = params.user ?? "root";
    inputs.timeout.value = params.timeout ?? "30";
    inputs.when_offline.value = params.when_offline ?? "queue";
    inputs.reason.value = params.reason ?? "";
    const { wait } = params;
    if (![...inputs.wait.options].some(({ value }) => value === (wait ?? ""))) inputs.wait.add(new Option(t("run.wait_for", { time: duration(wait * 1000) }), wait));
    for (const name of ROLLOUT) inputs[name].value = params[name] ?? "";
    part.rollout.open = ROLLOUT.some((name) => params[name]);
  }

  form.addEventListener("input", () => {
    taskId = crypto.randomUUID(); // another request by now
    changed();
  });
  form.addEventListener("submit", send);
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  store.subscribe(["hosts"], drawStates, signal);
  document.addEventListener("visibilitychange", renew, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  prefill();
  changed();
  attempt(part.targets, readTargets);
}

/** A number as one, and what else was typed as it is: "10%", or what the server will say is wrong. */
const numberOr = (typed) => (/^\d+$/.test(typed) ? Number(typed) : typed);

/** The server has looked at it and said no; the same again would not help. */
const isRefused = (error) => error.status >= 400 && error.status < 500;

const wrong = (words) => create("p", { className: "field-error", role: "alert", textContent: visible(words) });
