// Who may do what: `access.json` says what there is, this how it is shown.
import { json } from "../ansi.js";
import { anchor, ask, badge, rowsOf, said, time } from "../components.js";
import { attempt, create, every, keyedList, make, permit, successive, text, toast, translate } from "../dom.js";
import { fold } from "../format.js";
import { because, language, t } from "../i18n.js";
import { hostPath, link, moment, taskPath } from "../router.js";
import data from "../../access.json" with { type: "json" };
import { isShown } from "../notices.js";
import { addPasskey } from "./login.js";

const LOOK_MS = 10_000;
const rules = {};

export function mount(part, params, context) {
  const isMine = (spec) => isShown(spec, context);
  const tabs = Object.keys(data.tabs).filter((tab) => data.tabs[tab].some(isMine));
  const nextSignal = successive(context.signal);

  function update({ tab: wanted }) {
    const chosen = tabs.includes(wanted) ? wanted : tabs[0];
    keyedList(part.tabs, tabs, (tab) => tab, "a", (element, tab) => {
      element.className = "button";
      element.href = link("/access", { tab });
      element.ariaCurrent = tab === chosen ? "page" : null;
      text(element, t(`access.${tab}`));
    });
    const signal = nextSignal();
    part.sections.replaceChildren(...data.tabs[chosen].filter(isMine).map((spec) => section(spec, { ...context, signal })));
  }
  update(params);
  return { update };
}

export function enrolment(context) {
  return section({ ...data.tabs.enrolment.at(-1), columns: null, actions: null, isAsked: true }, context);
}

function section(spec, context) {
  const { api, signal, user } = context;
  const part = make("section");
  const may = ({ needs }) => !needs || user.permissions.includes(needs);
  const actions = (spec.actions ?? []).filter(may);
  const keyOf = (row) => row[spec.id];
  const columns = [...(spec.columns ?? []), ...(actions.length ? ["do"] : [])];
  const shows = { do: drawActions };
  for (const name of columns) {
    const head = create("th", t(`access.field.${name}`), { className: data.classes[name] ?? "" });
    head.dataset.of = name;
    part.head.append(head);
    shows[name] ??= (row, cell) => show(row, cell, name);
  }
  part.table.className = spec.isCards ? "cards" : "list";
  const rows = spec.columns && rowsOf(part.table, spec.id, shows);

  /** What a server does not have is not shown. */
  async function read(minSeq) {
    try {
      const { items } = await api.get(spec.path, { ...spec.query, min_seq: minSeq });
      if (spec.tells && items.length && may(spec.tells)) for (const rule of (await api.get("/rules")).items) rules[rule.rule_id] = rule;
      rows.draw(items.sort((a, b) => (b.state === "waiting") - (a.state === "waiting")));
      part.empty.hidden = items.length > 0;
    } catch (error) {
      if (error.status !== 404) throw error;
      part.root.hidden = true;
    }
  }

  const load = (minSeq) => attempt(part.rows, () => read(minSeq));

  function drawActions(row, place) {
    const fits = (wanted) => Object.entries(wanted).every(([name, value]) => row[name] === value);
    const wanted = actions.filter(({ when = {}, unless, lacks }) => fits(when) && !(unless && fits(unless)) && !row.request?.[lacks]);
    keyedList(place, wanted, ({ name }) => name, "button", (button, action) => {
      button.className = action.kind ?? "";
      button.onclick = () => perform(action, row);
      text(button, t(`access.${spec.name}.${action.name}`));
    });
    if (moment()) for (const button of place.querySelectorAll("button")) permit(button, user);
  }

  function perform(action, row = {}) {
    const name = `${spec.name}.${action.name ?? "create"}`;
    const fields = Object.entries(action.fields ?? {}).map(([field, type], place) => ({
      name: field,
      autofocus: place === 0,
      label: t(`access.field.${field}`),
      value: action.prefills && row[field],
      ...data.types[type],
      ...(type === "permissions" && { choices: user.permissions }),
    }));
    const shown = action.shows ? [said(row.request.command), hostsText(row), fieldsOf(row.request)] : [];
    return ask({
      words: `access.${name}`,
      body: [t(`access.${name}_what`, { ...row, fingerprint: SHOWN.fingerprint(row.fingerprint), rule: row.effect && ruleText(row) }), ...shown],
      fields,
      submit: async (values, place) => {
        const body = { ...values, ...action.body };
        const answer = await (OWN[name] ? OWN[name](body, row, context, place) : send(body, row, action));
        if (action.secret) showOnce(answer[action.secret]);
        if (answer?.warnings?.length) toast(answer.warnings.map(because).join(" · "));
        if (rows) load(spec.isLive ? null : answer?.seq);
      },
    });
  }

  function send(body, row, { method = "post", to = "" }) {
    const path = keyOf(row) === undefined ? spec.path : `${spec.path}/${encodeURIComponent(keyOf(row))}${to}`;
    return api[method](path, method === "remove" ? undefined : body);
  }

  function showOnce(secret) {
    part.made.hidden = false;
    part.secret.textContent = spec.path === "/enrolment-tokens" ? `${secret}\ncontrol-plane-agent run` : secret;
    part.copy.onclick = () => navigator.clipboard.writeText(part.secret.textContent);
  }

  part.title.dataset.t = `access.${spec.name}`;
  part.about.dataset.t = spec.isAsked && user.dev ? "fleet.add_dev" : `access.${spec.name}.about`;
  part.create.dataset.t = `access.${spec.name}.create`;
  translate(part.root);
  part.create.hidden = !spec.create || spec.isAsked;
  if (spec.create && ((!moment() && may(spec.create)) || permit(part.create, user, spec.create.needs))) part.create.onclick = () => perform(spec.create);
  if (spec.isAsked) perform(spec.create);
  if (rows) load();
  if (spec.isLive && !moment()) every(LOOK_MS, () => document.hidden || load(), signal);
  return part.root;
}

const SHOWN = {
  state: (state, cell) => badge(cell, "approval", state),
  requester: (name, _, { mine, state }) => (mine && state === "waiting" ? t("access.second_person", { name }) : name),
  rule: (_, __, rule) => ruleText(rule),
  identity: (identity) => identity?.subject ?? "",
  argv: (argv) => json(argv),
  fingerprint: (fingerprint) => fingerprint?.match(/.{1,4}/g).join(" "), // as people read it aloud
  permissions: (permissions) => permissions?.join(", ") || t("access.all"),
  addresses: (addresses) => addresses?.join(", ") || t("access.anywhere"),
  asked_command(_, cell, { request }) {
    if (!cell.hasChildNodes()) cell.append(said(request.command)); // what is marked stays so
  },
  template: (_, __, { request }) => request.template ?? "",
  account: (_, __, { request }) => request.user,
  beside: (_, __, { request }) => data.beside.filter((name) => request[name]).map((name) => `${name}: ${json(request[name])}`).join(" · "),
  rules: (ids) => ids.map((id) => (rules[id] ? `${ruleText(rules[id])} (${rules[id].reason ?? id})` : id)).join("; "),
  sent_by: (_, __, { mine, request }) => (mine && request.secrets ? t("access.sent_by_program") : ""),
  hosts: showHosts,
};

function show(row, cell, name) {
  const value = row[name];
  if (SHOWN[name]) return SHOWN[name](value, cell, row);
  if (name.endsWith("_at")) return time(cell, value);
  if (typeof value === "boolean") return t(value ? "access.yes" : "access.no");
  return [value].flat().join(", ");
}

function showHosts(hosts, cell, { host_count: n, request: { target } }) {
  const place = create("span");
  anchor(place, n === 1 ? hostPath(hosts[0]) : link("/hosts", { group: target.group }), hostsText({ hosts, host_count: n }));
  cell.replaceChildren(place);
}

/** What an allow has within its limits is what a deny leaves alone. */
function ruleText({ effect, subject, actions, hosts, ...rule }) {
  const where = hosts.all ? t("run.all") : [...hosts.groups.map((group) => t("run.in_group", { group })), ...hosts.hostnames].join(", ");
  const given = (names) => names.map((name) => [name, [rule[name]].flat().join(", ")]).filter(([, value]) => value && value !== "shell");
  const say = (names) => given(names).map(([name, value]) => t(`access.limit_${name}`, { value }));
  const limits = new Intl.ListFormat(language).format(say(data.limits));
  return [t(`access.rule_${effect}`, { subject, actions: actions.join(", "), where }), ...say(data.about), limits && t(`access.rule_limits_${effect}`, { limits })].filter(Boolean).join(" · ");
}

const hostsText = ({ hosts, host_count: n }) => `${t("task.on_hosts", { n })}: ${fold(hosts)}${n > hosts.length ? " …" : ""}`;

function fieldsOf(request) {
  const list = create("dl", "", { className: "facts exact" });
  list.append(...Object.entries(request).flatMap(([name, value]) => [create("dt", name), create("dd", json(value))]));
  return list;
}

const OWN = {
  "approvals.run": runApproved,
  "password.create": changePassword,
  "passkeys.create": (body, _, { api }, place) => addPasskey(body, api, place),
};

async function changePassword(body, _, { api, signedIn }) {
  signedIn(await api.post("/auth/password", body), link("/access", { tab: "account" }));
  toast(t("access.changed"));
}

/** Just what was approved is sent. */
async function runApproved(_, { request, task_id: taskId, approval_id: approvalId }, { api, stream, navigate }) {
  const asked = Object.entries(request).filter(([name]) => !request.template || !data.of_templates.includes(name));
  const { task } = await api.post("/tasks", { ...Object.fromEntries(asked), task_id: taskId, approval_id: approvalId });
  stream.take("tasks", [task]);
  navigate(taskPath(taskId));
}
