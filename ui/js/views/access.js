// Who may do what: `access.json` says what there is, this how it is shown.
/** @import {AccessAnswer, AccessRow, AccessRule, Action, Calls, ChangePassword, Context, Kind, Mount, Params, RunCommand, RunRequest, Section, Shows} from "../app.js" */
/** @typedef {keyof AccessRow} Column @typedef {ChangePassword & {name: string}} Said by forms of this page */
import { json } from "../ansi.js";
import { anchor, ask, badge, rowsOf, said, time } from "../components.js";
import { attempt, copies, create, every, keyedList, make, permit, successive, text, toast, translate } from "../dom.js";
import { absolute, fold } from "../format.js";
import { because, language, t } from "../i18n.js";
import { hostPath, link, moment, taskPath } from "../router.js";
import { Problem } from "../api.js";
import data from "../../access.json" with { type: "json" };
import { isShown } from "../notices.js";
import { typedName } from "./hostactions.js";
import { addPasskey } from "./login.js";

const LOOK_MS = 10_000;
const BESIDE = /** @type {(keyof RunRequest)[]} */ (data.beside);
const TABS = /** @type {Record<string, Section[]>} */ (data.tabs);
/** @type {Record<string, {}>} */
const TYPES = data.types;
/** @type {Record<string, string>} */
const CLASSES = data.classes;
/** @type {Record<string, AccessRule>} */
const rules = {};

/** @type {Mount<"access">} */
export function mount(part, params, context) {
  const isMine = (/** @type {Section} */ spec) => isShown(spec, context);
  const tabs = Object.keys(TABS).filter((tab) => TABS[tab].some(isMine));
  const nextSignal = successive(context.signal);

  /** @param {Params} params */
  function update({ tab: wanted = "" }) {
    const chosen = tabs.includes(wanted) ? wanted : tabs[0];
    keyedList(part.tabs, tabs, (tab) => tab, "a", (element, tab) => {
      element.className = "button";
      element.href = link("/access", { tab });
      element.ariaCurrent = tab === chosen ? "page" : null;
      text(element, t(`access.${tab}`));
    });
    const signal = nextSignal();
    part.sections.replaceChildren(...TABS[chosen].filter(isMine).map((spec) => section(spec, { ...context, signal })));
  }
  if (moment()) part.tabs.before(create("p", t("access.now"), { className: "panel note" }));
  update(params);
  return { update };
}

/** @param {Context} context */
export function enrolment(context) {
  return section({ ...TABS.enrolment[1], columns: null, actions: null, isAsked: true }, context);
}

/** @param {Section} spec @param {Context} context */
function section(spec, context) {
  const { api, signal, user } = context;
  const part = make("section");
  const may = (/** @type {{needs?: string}} */ { needs }) => !needs || user.permissions.includes(needs);
  const actions = (spec.actions ?? []).filter(may);
  const { id } = spec;
  const columns = [...(spec.columns ?? []), ...(actions.length ? ["do"] : [])];
  /** @type {Shows<AccessRow>} */
  const shows = { do: drawActions };
  for (const name of columns) {
    const head = create("th", t(`access.field.${name}`), { className: CLASSES[name] ?? "" });
    head.dataset.of = name;
    part.head.append(head);
    shows[name] ??= (row, cell) => show(row, cell, name, spec.kind);
  }
  part.table.className = spec.isCards ? "cards" : "list";
  const rows = spec.columns && id && rowsOf(part.table, id, shows);

  let pages = 1; // that are shown
  const more = create("p", "", { className: "note", hidden: true });
  more.append(create("button", t("access.more"), { onclick: () => load((pages += 1) && null) }));

  /** As it is now, whatever moment the other pages are of. @param {?number} minSeq */
  async function itemsOf(minSeq) {
    const found = [];
    let cursor = null;
    for (let page = 0; page < pages && (page === 0 || cursor); page += 1) {
      const answer = await /** @type {Calls} */ (api).get(spec.path, { ...spec.query, at: null, cursor, min_seq: minSeq });
      found.push(...answer.items);
      if (answer.next_key_sha256) found.push({ key_id: answer.next_key_sha256.slice(0, 16), state: "announced" });
      cursor = answer.next_cursor;
    }
    more.hidden = !cursor;
    return /** @type {AccessRow[]} */ (found);
  }

  /** What a server does not have is not shown. @param {?number} minSeq */
  async function read(minSeq) {
    try {
      const items = await itemsOf(minSeq);
      if (spec.tells && items.length && may(spec.tells)) for (const rule of (await api.get("/rules")).items) rules[rule.rule_id] = rule;
      if (rows) rows.draw(items.sort((a, b) => Number(b.state === "waiting") - Number(a.state === "waiting")));
      part.empty.hidden = items.length > 0;
    } catch (error) {
      if (!(error instanceof Problem && error.status === 404)) throw error;
      part.root.hidden = true;
    }
  }

  const load = (/** @type {?number} */ minSeq = null) => attempt(part.rows, () => read(minSeq));

  /** @param {AccessRow} row @param {Element} place */
  function drawActions(row, place) {
    const fits = (/** @type {{}} */ wanted) => Object.entries(wanted).every(([name, value]) => row[/** @type {Column} */ (name)] === value);
    const wanted = actions.filter(({ when = {}, unless, lacks }) => fits(when) && !(unless && fits(unless)) && !(lacks && row.request?.[lacks]));
    keyedList(place, wanted, ({ name }) => name, "button", (button, action) => {
      button.className = action.kind ?? "";
      button.onclick = () => perform(action, row);
      text(button, t(`access.${spec.name}.${action.name}`));
    });
    if (moment()) for (const button of place.querySelectorAll("button")) permit(button, user, "");
  }

  /** @param {Action} action @param {AccessRow} [row] */
  function perform(action, row) {
    const name = `${spec.name}.${action.name ?? "create"}`;
    const typed = action.types && row ? [typedName(row.hostname)] : []; // there is no way back
    const asked = Object.entries(action.fields ?? {}).map(([field, type], place) => ({
      name: field,
      autofocus: place === 0 && !typed.length,
      label: t(`access.field.${field}`),
      value: action.prefills && row ? /** @type {string} */ (row[/** @type {Column} */ (field)]) : undefined,
      ...TYPES[type ?? ""],
      ...(type === "permissions" && { choices: user.permissions }),
    }));
    const shown = action.shows && row ? [said(row.request.command), hostsText(row), fieldsOf(row.request)] : [];
    return ask({
      words: `access.${name}`,
      body: [t(`access.${name}_what`, { ...row, fingerprint: row && fingerprintOf(row), rule: row?.effect && ruleText(row) }), ...shown],
      fields: [...typed, ...asked],
      submit: async (/** @type {Record<string, unknown>} */ { typed: _, ...values }, place) => {
        const body = { ...values, ...action.body };
        const own = OWN[name];
        const answer = /** @type {AccessAnswer} */ (await (own ? own(/** @type {Said} */ (body), context, place, row) : send(body, row, action)));
        if (action.secret) showOnce(answer?.[action.secret] ?? "");
        if (answer?.warnings?.length) toast(answer.warnings.map(because).join(" · "));
        if (rows) load(spec.isLive ? null : answer?.seq);
      },
    });
  }

  /** @param {{}} body @param {AccessRow | undefined} row @param {Action} action */
  function send(body, row, { method = "post", to = "" }) {
    const path = row && id ? `${spec.path}/${encodeURIComponent(String(row[id]))}${to}` : spec.path;
    return /** @type {Calls} */ (api)[method](path, method === "remove" ? undefined : body);
  }

  /** @param {string} secret */
  function showOnce(secret) {
    part.made.hidden = false;
    part.secret.textContent = spec.path === "/enrolment-tokens" ? `${secret}\ncontrol-plane-agent run` : secret;
    text(part.copy, t("shell.copy"));
    copies(part.copy, () => part.secret.textContent ?? "");
  }

  part.title.dataset.t = `access.${spec.name}`;
  part.about.dataset.t = spec.isAsked && user.dev ? "fleet.add_dev" : `access.${spec.name}.about`;
  part.create.dataset.t = `access.${spec.name}.create`;
  translate(part.root);
  part.create.hidden = !spec.create || Boolean(spec.isAsked);
  const { create: making } = spec;
  if (making && ((!moment() && may(making)) || permit(part.create, user, making.needs ?? ""))) part.create.onclick = () => perform(making);
  if (making && spec.isAsked) perform(making);
  if (rows) part.rows.after(more);
  if (rows) load();
  if (spec.isLive && !moment()) every(LOOK_MS, () => document.hidden || load(), signal);
  return part.root;
}

/** @param {Partial<AccessRow>} row As people read it aloud. */
const fingerprintOf = ({ fingerprint }) => fingerprint?.match(/.{1,4}/g)?.join(" ");

/** @type {Shows<AccessRow>} */
const SHOWN = {
  requester: ({ requester: name, mine, state }) => (mine && state === "waiting" ? t("access.second_person", { name }) : name),
  rule: ruleText,
  identity: ({ identity }) => identity?.subject ?? "",
  argv: ({ argv }) => json(argv),
  fingerprint: fingerprintOf,
  permissions: ({ permissions }) => permissions?.join(", ") || t("access.all"),
  addresses: ({ addresses }) => addresses?.join(", ") || t("access.anywhere"),
  asked_command({ request }, cell) {
    if (!cell.hasChildNodes()) cell.append(said(request.command)); // what is marked stays so
  },
  template: ({ request }) => request.template ?? "",
  account: ({ request }) => request.user,
  beside: ({ request }) => BESIDE.filter((name) => request[name]).map((name) => `${name}: ${json(request[name])}`).join(" · "),
  rules: ({ rules: ids }) => ids.map((id) => (rules[id] ? `${ruleText(rules[id])} (${rules[id].reason ?? id})` : id)).join("; "),
  sent_by: ({ mine, request }) => (mine && request.secrets ? t("access.sent_by_program") : ""),
  hosts: showHosts,
};

/** @param {AccessRow} row @param {HTMLTableCellElement} cell @param {string} name @param {Kind} [kind] */
function show(row, cell, name, kind = "approval") {
  if (name === "state") return badge(cell, kind, row.state);
  if (SHOWN[name]) return SHOWN[name](row, cell);
  const value = row[/** @type {Column} */ (name)];
  if (name.endsWith("_at")) return moment() ? value && absolute(String(value), language) : time(cell, /** @type {?string} */ (value));
  if (typeof value === "boolean") return t(value ? "access.yes" : "access.no");
  return [value].flat().join(", ");
}

/** Where there is a page of just them; of its hosts the reader may not see all. @param {AccessRow} row @param {Element} cell */
function showHosts(row, cell) {
  const { hosts: [first], host_count: n, request: { target: { group, query: q, all } } } = row;
  const place = create("span");
  if (n === 1 && first) anchor(place, hostPath(first), hostsText(row));
  else if (group || q || all) anchor(place, link("/hosts", { group, q }), hostsText(row));
  else text(place, hostsText(row));
  cell.replaceChildren(place);
}

/** What an allow has within its limits is what a deny leaves alone. @param {AccessRule} rule */
function ruleText(rule) {
  const { effect, subject, actions, hosts } = rule;
  const where = hosts.all ? t("run.all") : [...hosts.groups.map((group) => t("run.in_group", { group })), ...hosts.hostnames].join(", ");
  const say = (/** @type {string[]} */ names) => names.flatMap((name) => {
    const value = [rule[/** @type {keyof AccessRule} */ (name)]].flat().join(", ");
    return value && value !== "shell" ? t(`access.limit_${name}`, { value }) : [];
  });
  const limits = new Intl.ListFormat(language).format(say(data.limits));
  return [t(`access.rule_${effect}`, { subject, actions: actions.join(", "), where }), ...say(data.about), limits && t(`access.rule_limits_${effect}`, { limits })].filter(Boolean).join(" · ");
}

/** @param {AccessRow} row */
const hostsText = ({ hosts, host_count: n }) => `${t("task.on_hosts", { n })}: ${fold(hosts)}${n > hosts.length ? " …" : ""}`;

/** @param {RunRequest} request */
function fieldsOf(request) {
  const list = create("dl", "", { className: "facts exact" });
  list.append(...Object.entries(request).flatMap(([name, value]) => [create("dt", name), create("dd", json(value))]));
  return list;
}

/** @type {Record<string, (said: Said, context: Context, place: HTMLElement, row?: AccessRow) => Promise<unknown>>} */
const OWN = {
  "approvals.run": runApproved,
  "password.create": changePassword,
  "passkeys.create": (body, { api }, place) => addPasskey(body, api, place),
};

/** @param {Said} body @param {Context} context */
async function changePassword(body, { api, signedIn }) {
  signedIn(await api.post("/auth/password", body), link("/access", { tab: "account" }));
  toast(t("access.changed"));
}

/** Just what was approved is sent.
 * @param {Said} _ @param {Context} context @param {HTMLElement} __ @param {AccessRow} [row] */
async function runApproved(_, { api, stream, navigate }, __, row) {
  if (!row) return;
  const { request, task_id: taskId, approval_id: approvalId } = row;
  const asked = Object.entries(request).filter(([name]) => !request.template || !data.of_templates.includes(name));
  const body = { ...Object.fromEntries(asked), task_id: taskId, approval_id: approvalId };
  const { task } = await api.post("/tasks", /** @type {RunCommand} */ (body));
  stream.take("tasks", [task]);
  navigate(taskPath(taskId));
}
