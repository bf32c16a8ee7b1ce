// Choose where, say what, see exactly which hosts that is, then send it.
import { visible } from "../ansi.js";
import { FIRST_HOSTS, amountOf, badge, confirmRun, field, namesOf, timeNode, valuesOf } from "../components.js";
import { attempt, create, facts, keyedList, options, permit, text } from "../dom.js";
import { duration, fold } from "../format.js";
import { because, t, told } from "../i18n.js";
import { link, taskPath } from "../router.js";
import { readHosts } from "./hosts.js";

const PREVIEW_MS = 400;
const RENEW_LEAST_MS = 5_000;
const MOST_OFFERED = 1_000;
const MOST_CHARACTERS = 4096;
const HOW = [
  { name: "when_offline" },
  { name: "reason" },
  ...["max_concurrency", "max_errors", "wait"].map((name) => ({ name: `rollout.${name}`, type: "amount" })),
  { name: "rollout.canary", type: "canary" },
];
const AWAY = ["stale", "offline", "pending"];

export function mount(part, params, context) {
  const { api, store, stream, signal, navigate } = context;
  const form = part.root;
  const inputs = form.elements;
  const mayRun = permit(part.submit, context.user, "tasks.run");
  // Made beforehand: a second click, or a lost answer, starts nothing twice.
  let taskId = crypto.randomUUID();
  let preview = null;
  let templates = [];
  let parameters = [];
  const states = create("div", "", { className: "row" });
  let timer = 0;
  let round = 0;

  function target() {
    const kind = inputs.kind.value;
    if (kind === "all") return { all: true };
    const said = kind === "hosts" ? namesOf(inputs.hosts.value) : inputs[kind]?.value.trim();
    return said?.length ? { [kind]: said } : null;
  }

  const template = () => templates.find(({ name }) => name === inputs.template.value);

  function what() {
    const chosen = template();
    if (chosen) return { template: chosen.name, parameters: {}, ...valuesOf(parameters, form) };
    return { command: inputs.command.value.trim(), user: inputs.user.value.trim(), timeout: Number(inputs.timeout.value) };
  }

  function shown({ command, user, parameters: said }) {
    const { argv, user: account } = template() ?? { user };
    return { command: argv?.map((word) => quoted(word.replace(/\{(\w+)\}/g, (whole, name) => said[name] ?? whole))).join(" ") ?? command, user: account };
  }

  const request = () => ({ task_id: taskId, target: target(), ...what(), ...valuesOf(HOW, form), expires_in: params.expires_in && amountOf(params.expires_in) });

  function changed() {
    for (const kind of ["host", "group", "hosts"]) part[`${kind}Field`].hidden = inputs.kind.value !== kind;
    preview = null;
    round += 1; // an answer to what was asked before counts no more
    drawButton();
    clearTimeout(timer);
    if (!mayRun) return part.preview.replaceChildren(t("shell.needs", { permission: "tasks.run" })); // to ask would be recorded
    if (!target()) return part.preview.replaceChildren(t("run.choose"));
    if (template() && isEmpty()) return part.preview.replaceChildren(t("run.no_parameters"));
    timer = setTimeout(load, PREVIEW_MS);
  }

  const isStopped = () => store.one("stop", "")?.stopped;
  const isEmpty = () => (template() ? part.parameters.querySelector(":invalid") !== null : inputs.command.value.trim() === "");
  const load = () => attempt(part.preview, look);

  async function look() {
    const asked = round;
    try {
      const said = what();
      const found = await api.post("/targets/preview", { target: target(), ...said, command: said.command || undefined });
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

  function renew() {
    if (preview && !document.hidden && Date.parse(preview.expires_at) <= stream.now()) load();
  }

  function drawPreview() {
    drawStates();
    const list = create("dl", "", { className: "facts" });
    const hosts = create("code", fold(preview.hosts.slice(0, FIRST_HOSTS)) + (preview.count > FIRST_HOSTS ? " …" : ""));
    const leftOut = preview.excluded.map(({ hostname, reason }) => `${hostname}: ${because(reason)}`).join("; ");
    const ends = timeNode(preview.expires_at);
    const isNamed = ["host", "hosts"].includes(inputs.kind.value); // then somebody wanted just those
    ends.role = "timer"; // not read out as it goes
    facts(list, "run", {
      exactly: hosts,
      left_out: isNamed ? null : leftOut,
      guard: preview.guard.rules.length ? `${preview.guard.level}: ${preview.guard.rules.map(because).join(", ")}` : null,
      approval: preview.approval_required ? t("run.approval_why") : null,
      valid: ends,
      expires_in: params.expires_in && duration(params.expires_in * 1000),
    }, { n: preview.count });
    const warnings = [refusalText(), quarantinedText(), isNamed && leftOut && t("run.left_out_named", { hosts: leftOut })];
    part.preview.replaceChildren(...warnings.filter(Boolean).map(wrong), states, list);
  }

  /** As they are now, or as the preview has it where not all are known here. */
  function countStates() {
    const now = Object.groupBy(preview.hosts, (hostname) => store.one("hosts", hostname)?.state ?? "");
    return now[""] ? Object.entries(preview.by_state) : Object.entries(now).map(([state, hosts]) => [state, hosts.length]);
  }

  function drawStates() {
    if (!preview) return;
    keyedList(states, countStates(), ([state]) => state, "span", (place, [state, count]) => {
      badge(place, "host", state, `${count} ${t(`state.host.${state}`)}`);
    });
  }

  function drawButton() {
    const isReady = preview?.allowed && preview.count > 0 && !isEmpty() && !isStopped();
    part.submit.disabled = !isReady;
    const words = preview?.approval_required ? "run.ask" : "run.submit";
    text(part.submit, preview?.count ? t(words, { n: preview.count }) : t("run.submit_none"));
    text(part.why, mayRun && !isReady ? missing() : "");
  }

  function refusalText() {
    const { allowed, refusal: detail } = preview;
    return !allowed && told({ code: "not_allowed", detail, body: { action: "tasks.run" } });
  }

  function quarantinedText() {
    const hosts = preview.quarantined;
    return hosts.length && t("run.quarantined", { n: hosts.length, hosts: fold(hosts.slice(0, FIRST_HOSTS)) });
  }

  function awayText(whenOffline) {
    const away = countStates().filter(([state]) => AWAY.includes(state));
    const n = away.reduce((sum, [, count]) => sum + count, 0);
    const words = away.map(([state, count]) => `${count} ${t(`state.host.${state}`)}`).join(", ");
    return n && t(`run.away_${whenOffline}`, { n, states: words });
  }

  function missing() {
    if (!target()) return t("run.choose");
    if (isEmpty()) return t(template() ? "run.no_parameters" : "run.no_command");
    if (isStopped()) return t("problem.stopped");
    if (preview?.count === 0) return t("run.no_host");
    return preview ? refusalText() : "";
  }

  async function send(event) {
    event.preventDefault();
    if (part.submit.disabled || !mayRun) return;
    part.error.textContent = "";
    const asked = { ...request(), preview_id: preview.preview_id };
    const needsApproval = preview.approval_required;
    const more = [needsApproval && t("run.ask_what"), asked.rollout && t("run.confirm_rollout"), quarantinedText(), awayText(asked.when_offline)].filter(Boolean);
    const body = await confirmRun(preview, asked, more, shown(asked), needsApproval);
    if (!body) return;
    part.submit.disabled = true;
    try {
      const { task } = await api.post(needsApproval ? "/approvals" : "/tasks", body);
      if (task) stream.take("tasks", [task]);
      navigate(task ? taskPath(task.task_id) : link("/access", { tab: "approvals" }));
    } catch (error) {
      if (error.name === "AbortError") return;
      showError(error);
    }
  }

  function showError(error) {
    const wrongs = error.errors.flatMap(({ field: name }) => name.split("."));
    for (const input of inputs) input.ariaInvalid = wrongs.includes(nameOf(input)) ? "true" : null;
    if (wrongs.includes("rollout")) part.rollout.open = true;
    text(part.error, told(error));
    if (isRefused(error)) changed(); // the preview may not hold any more
    else drawButton();
  }

  async function readTargets() {
    const [groups, asOf] = await Promise.all([api.get("/groups"), readHosts(context)]);
    stream.follow(["hosts"], asOf, signal, () => attempt(part.targets, () => readHosts(context)));
    const hostsOf = new Map(groups.items.map((row) => [row.group, row.hosts]));
    options(inputs.group, hostsOf.keys(), (group) => `${group} (${hostsOf.get(group)})`);
    options(part.known, store.all("hosts").slice(0, MOST_OFFERED).map((host) => host.hostname), () => "");
    inputs.group.value = params.group ?? groups.items[0]?.group ?? "";
    changed();
  }

  async function readTemplates() {
    templates = (await api.get("/templates")).items;
    part.templateField.hidden = !templates.length;
    if (templates.length) options(inputs.template, ["", ...templates.map(({ name }) => name)], (name) => name || t("run.free"));
    inputs.template.value = params.template ?? "";
    chooseTemplate();
  }

  function chooseTemplate() {
    const chosen = template();
    part.free.hidden = Boolean(chosen);
    parameters = (chosen?.parameters ?? []).map(parameterField);
    part.about.hidden = !chosen;
    text(part.about, chosen && [chosen.description, t("run.template_user", chosen)].filter(Boolean).join(" · "));
    part.parameters.replaceChildren(...parameters.map(field));
    changed();
  }

  function prefill() {
    inputs.kind.value = ["hosts", "host", "group", "all"].find((kind) => params[kind]) ?? "";
    const { wait } = params;
    if (![...part.wait.options].some(({ value }) => value === (wait ?? ""))) part.wait.add(new Option(t("run.wait_for", { time: duration(wait * 1000) }), wait));
    for (const input of inputs) if (input.type !== "radio" && nameOf(input) in params) input.value = params[nameOf(input)];
    part.rollout.open = Boolean(valuesOf(HOW, form).rollout);
  }

  inputs.template.onchange = chooseTemplate;
  form.oninput = () => {
    taskId = crypto.randomUUID(); // another request by now
    changed();
  };
  form.onsubmit = send;
  form.onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  };
  store.subscribe(["hosts"], drawStates, signal);
  store.subscribe(["stop"], drawButton, signal);
  document.addEventListener("visibilitychange", renew, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  prefill();
  changed();
  attempt(part.targets, readTargets);
  if (mayRun) readTemplates().catch(() => {});
}

function parameterField({ name, type, choices, min, max, prefix: value, max_length: maxLength }) {
  const limits = type === "integer" ? { type: "number", min: min ?? "", max: max ?? "" } : { maxLength: maxLength ?? MOST_CHARACTERS };
  return { name: `parameters.${name}`, label: name, value, required: true, choices, ...(!choices && limits) };
}

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

const nameOf = (input) => input.name.split(".").at(-1);

const isRefused = (error) => error.status >= 400 && error.status < 500;

const wrong = (words) => create("p", visible(words), { className: "field-error", role: "alert" });
