// Choose where, say what, see exactly which hosts that is, then send it.
/** @import {CommandTemplate, Field, Input, Mount, Preview, RunCommand, Target} from "../app.js" */
import { Problem, isAbort } from "../api.js";
import { EXPIRY_S, cpctlLine, filled } from "../commandline.js";
import { badge, field, namesOf, said, timeNode, valuesOf } from "../components.js";
import { attempt, copies, create, facts, keyedList, one, options, permit, text } from "../dom.js";
import { absolute, duration } from "../format.js";
import { because, language, t, told } from "../i18n.js";
import { parse } from "../query.js";
import { marksWrong } from "../queryfield.js";
import { link, moment, taskPath } from "../router.js";
import { againLink } from "./again.js";
import { confirmRun } from "./confirm.js";
import { readHosts } from "./hosts.js";
import { differenceText, hostsNode, leftOutText, parameterField, quarantinedText, refusalText, wrong } from "./run_words.js";

const PREVIEW_MS = 400;
const RENEW_LEAST_MS = 5_000;
const MOST_OFFERED = 1_000;
const TARGETS = /** @type {const} */ (["host", "group", "hosts", "query"]); // that have a field
/** @type {[wait: string, words: string][]} */
const WAITS = [["", "run.wait_none"], ["approve", "run.wait_approve"], ["60", "run.wait_1"], ["600", "run.wait_10"]];
const ROLLOUT = [
  { name: "rollout.max_concurrency", says: "run.at_once", type: "amount", size: 8, placeholder: "10%" },
  { name: "rollout.max_errors", says: "run.errors", type: "amount", size: 8, placeholder: "0" },
  { name: "rollout.canary", says: "run.canary", type: "canary", size: 16, placeholder: "1" },
  { name: "rollout.wait", says: "run.wait", type: "amount", choices: WAITS.map(([wait]) => wait) },
];
const HOW = [{ name: "when_offline" }, { name: "reason" }, { name: "expires_in", type: "number" }, ...ROLLOUT];
const AWAY = ["stale", "offline", "pending"];
const SILENT = ["offline", "pending"];

/** @type {Mount<"run">} */
export function mount(part, params, context) {
  const { api, store, stream, signal, navigate } = context;
  const form = part.root;
  const inputs = form.elements;
  const mayRun = permit(part.submit, context.user, "tasks.run");
  // Made beforehand: a second click, or a lost answer, starts nothing twice.
  let taskId = crypto.randomUUID();
  /** @type {?Preview} */
  let preview = null;
  /** @type {CommandTemplate[]} */
  let templates = [];
  /** @type {Field[]} */
  let parameters = [];
  const states = create("div", "", { className: "row" });
  const silence = create("p");
  const showWrong = marksWrong(inputs.query, (reason) => t("run.wrong", { reason }), signal);
  let difference = "";
  let timer = 0;
  let round = 0;

  /** @returns {Target | null} */
  function target() {
    if (inputs.kind.value === "all") return { all: true };
    const kind = TARGETS.find((name) => name === inputs.kind.value);
    if (!kind) return null;
    if (kind === "query" && termError()) return null;
    const said = kind === "hosts" ? namesOf(inputs.hosts.value) : inputs[kind].value.trim();
    return said.length ? { [kind]: said } : null;
  }

  const termError = () => (inputs.kind.value === "query" ? parse(inputs.query.value).error : null);
  const fields = () => /** @type {Input[]} */ ([...inputs]);
  const template = () => templates.find(({ name }) => name === inputs.template.value);

  /** @returns {Pick<RunCommand, "template" | "parameters" | "command" | "user" | "timeout">} */
  function what() {
    const chosen = template();
    if (chosen) return { template: chosen.name, parameters: {}, ...valuesOf(parameters, form) };
    return { command: inputs.command.value.trim(), user: inputs.user.value.trim(), timeout: Number(inputs.timeout.value) };
  }

  /** @param {RunCommand} request */
  function shown({ command, user, parameters: said }) {
    const chosen = template();
    return chosen ? { command: filled(chosen.argv, said ?? {}), user: chosen.user } : { command, user };
  }

  /** What is wanted, where a target is. */
  const request = () => /** @type {RunCommand} */ ({ task_id: taskId, target: target(), ...what(), .../** @type {Partial<RunCommand>} */ (valuesOf(HOW, form)) });

  function changed() {
    for (const kind of TARGETS) part[`${kind}Field`].hidden = inputs.kind.value !== kind;
    showWrong(termError(), inputs.query.value);
    preview = null;
    difference = "";
    round += 1; // an answer to what was asked before counts no more
    drawButton();
    clearTimeout(timer);
    if (!mayRun) return part.preview.replaceChildren(moment() ? t("run.past") : t("shell.needs", { permission: "tasks.run" })); // to ask would be recorded
    if (!target()) return part.preview.replaceChildren(t("run.choose"));
    if (template() && isEmpty()) return part.preview.replaceChildren(t("run.no_parameters"));
    timer = setTimeout(load, PREVIEW_MS);
  }

  const isStopped = () => store.one("stop", "")?.stopped;
  const isEmpty = () => (template() ? part.parameters.querySelector(":invalid") !== null : inputs.command.value.trim() === "");
  const load = () => attempt(part.preview, look);

  /** Where it was seen before and is another one by now, the preview says so. */
  async function look() {
    const [asked, before] = [round, preview];
    try {
      const [where, asking] = [target(), what()];
      if (!where) return;
      const found = await api.post("/targets/preview", { target: where, ...asking, command: asking.command || undefined });
      if (asked !== round) return;
      preview = found;
      if (before && before.digest !== found.digest) difference = differenceText(before, found);
      mark();
      drawPreview(found);
      clearTimeout(timer);
      timer = setTimeout(renew, Math.max(RENEW_LEAST_MS, Date.parse(found.expires_at) - stream.now() + 1000));
    } catch (error) {
      if (asked !== round) return;
      if (!isRefused(error)) throw error;
      preview = null;
      mark(error.errors);
      part.preview.replaceChildren(wrong(told(error)));
    }
    drawButton();
  }

  function renew() {
    if (preview && !document.hidden && Date.parse(preview.expires_at) <= stream.now()) load();
  }

  /** @param {Preview} found */
  function drawPreview(found) {
    drawStates();
    const list = create("dl", "", { className: "facts" });
    const leftOut = leftOutText(found);
    const ends = timeNode(found.expires_at);
    const isNamed = ["host", "hosts"].includes(inputs.kind.value); // then somebody wanted just those
    ends.role = "timer"; // not read out as it goes
    facts(list, "run", {
      exactly: hostsNode(found),
      left_out: isNamed ? null : leftOut,
      guard: found.guard.rules.length ? `${found.guard.level}: ${found.guard.rules.map(because).join(", ")}` : null,
      approval: found.approval_required ? t("run.approval_why") : null,
      valid: ends,
      expires_in: inputs.expires_in.value && duration(Number(inputs.expires_in.value) * 1000),
    }, { n: found.count });
    const named = isNamed && leftOut ? t("run.left_out_named", { hosts: leftOut }) : "";
    const warnings = [difference, refusalText(found), quarantinedText(found), named].filter(Boolean);
    part.preview.replaceChildren(...warnings.map(wrong), states, silence, list, lineNode());
  }

  function lineNode() {
    const line = cpctlLine(request());
    const [place, head] = [create("div", "", { ariaLive: "off" }), create("div", "", { className: "row" })]; // too long to be read out each time
    const copy = create("button", t("shell.copy"), { type: "button", className: "plain small" });
    copies(copy, () => line);
    head.append(create("span", t("run.same"), { className: "muted" }), copy);
    place.append(head, said(line));
    return place;
  }

  /** As they are now, or as the preview has it where not all are known here.
   * @param {Preview} preview @returns {[state: string, count: number][]} */
  function countStates({ hosts, by_state: then }) {
    const now = Map.groupBy(hosts, (hostname) => store.one("hosts", hostname)?.state ?? "");
    return now.has("") ? Object.entries(then) : [...now].map(([state, some]) => [state, some.length]);
  }

  function drawStates() {
    if (!preview) return;
    keyedList(states, countStates(preview), ([state]) => state, "span", (place, [state, count]) => {
      badge(place, "host", state, `${count} ${t(`state.host.${state}`)}`);
    });
    text(silence, silenceText(preview));
    silence.hidden = !silence.textContent;
  }

  function drawButton() {
    const isReady = preview?.allowed && preview.count > 0 && !isEmpty() && !isStopped();
    part.submit.disabled = !isReady;
    const words = preview?.approval_required ? "run.ask" : "run.submit";
    text(part.submit, preview?.count ? t(words, { n: preview.count }) : t("run.submit_none"));
    text(part.why, mayRun && !isReady ? missing() : "");
  }

  /** Where all of them are away: what becomes of the command. @param {Preview} preview */
  function silenceText(preview) {
    if (!preview.count || countStates(preview).some(([state, count]) => count && !SILENT.includes(state))) return "";
    const { when_offline: whenOffline, expires_in: expiresIn, rollout } = request();
    const ends = stream.now() + 1000 * (expiresIn ?? EXPIRY_S[rollout ? "rollout" : "once"]);
    return t(`run.silent_${whenOffline}`, { time: absolute(ends, language) });
  }

  /** @param {Preview} preview @param {string} whenOffline */
  function awayText(preview, whenOffline) {
    const away = countStates(preview).filter(([state]) => AWAY.includes(state));
    const n = away.reduce((sum, [, count]) => sum + count, 0);
    const words = away.map(([state, count]) => `${count} ${t(`state.host.${state}`)}`).join(", ");
    return n ? t(`run.away_${whenOffline}`, { n, states: words }) : "";
  }

  function missing() {
    if (!target()) return t("run.choose");
    if (isEmpty()) return t(template() ? "run.no_parameters" : "run.no_command");
    if (isStopped()) return t("problem.stopped");
    if (preview?.count === 0) return t("run.no_host");
    return preview ? refusalText(preview) : "";
  }

  /** @param {Event} event */
  async function send(event) {
    event.preventDefault();
    const confirmed = preview; // the one behind a dialog that stays open may be another by then
    if (part.submit.disabled || !mayRun || !confirmed) return;
    part.error.textContent = "";
    const asked = { ...request(), preview_id: confirmed.preview_id };
    const needsApproval = confirmed.approval_required;
    const more = [needsApproval ? t("run.ask_what") : "", asked.rollout ? t("run.confirm_rollout") : "", quarantinedText(confirmed), awayText(confirmed, asked.when_offline)].filter(Boolean);
    const body = await confirmRun(confirmed, asked, more, shown(asked), needsApproval);
    if (!body) return;
    part.submit.disabled = true;
    try {
      const answer = await post(needsApproval ? "/approvals" : "/tasks", body, confirmed);
      if (!answer) return drawButton();
      const task = "task" in answer ? answer.task : null;
      if (task) stream.take("tasks", [task]);
      navigate(task ? taskPath(task.task_id) : link("/access", { tab: "approvals" }));
    } catch (error) {
      if (!isAbort(error)) showError(error);
    }
  }

  /** A preview that has run out is made again: what was confirmed goes on, anything else is asked about; null then.
   * @param {"/approvals" | "/tasks"} path @param {RunCommand} body @param {Preview} confirmed */
  async function post(path, body, confirmed) {
    try {
      return await api.post(path, body);
    } catch (error) {
      if (!(error instanceof Problem && error.code === "preview_expired")) throw error;
      preview = confirmed; // from which the next is told apart
      await look();
      return preview && isAsked(confirmed, preview) ? api.post(path, { ...body, preview_id: preview.preview_id }) : null;
    }
  }

  /** @param {Preview} one @param {Preview} other */
  const isAsked = (one, other) => one.digest === other.digest && one.guard.level === other.guard.level && one.approval_required === other.approval_required;

  /** The fields that an error is about; none are, where there is none. @param {Problem["errors"]} [errors] */
  function mark(errors = []) {
    const wrongs = errors.flatMap(({ field: name = "" }) => name.split("."));
    for (const input of fields()) input.ariaInvalid = wrongs.includes(nameOf(input)) ? "true" : null;
    if (wrongs.includes("rollout")) part.rollout.open = true;
  }

  /** @param {unknown} error */
  function showError(error) {
    mark(error instanceof Problem ? error.errors : []);
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
    const given = params.q ? { ...params, query: params.q } : params;
    inputs.kind.value = ["hosts", "host", "group", "query", "all"].find((kind) => given[kind]) ?? "";
    const { wait = "" } = given;
    const waits = one(form, '[name="rollout.wait"]', HTMLSelectElement);
    options(waits, WAITS.map(([value]) => value), (value) => t(new Map(WAITS).get(value) ?? ""));
    if (![...waits.options].some(({ value }) => value === wait)) waits.add(new Option(t("run.wait_for", { time: duration(Number(wait) * 1000) }), wait));
    for (const input of fields()) if (input.type !== "radio" && nameOf(input) in given) input.value = given[nameOf(input)] ?? "";
    part.rollout.open = Boolean(valuesOf(HOW, form).rollout);
  }

  options(inputs.when_offline, ["queue", "skip"], (how) => t(`run.${how}`));
  part.little.append(...ROLLOUT.map(({ says, ...more }) => field({ ...more, label: t(says) })));
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
  const { from_task: from } = params;
  if (from) return void attempt(part.targets, async () => navigate(await againLink(from, context), { replace: true }));
  attempt(part.targets, readTargets);
  if (mayRun) readTemplates().catch(() => {});
}

/** @param {Input} input */
const nameOf = (input) => input.name.slice(input.name.lastIndexOf(".") + 1);

/** @param {unknown} error @returns {error is Problem} */
const isRefused = (error) => error instanceof Problem && error.status >= 400 && error.status < 500;
