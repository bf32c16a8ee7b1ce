// What an administrator changes about a host: groups and labels, maintenance, and its end.
/** @import {ChangeHost, Context, Field, Host, Parts} from "../app.js" */
import { lasting } from "../api.js";
import { setLine } from "../commandline.js";
import { ask, reasonField, said } from "../components.js";
import { act, create, explain, permit, text, toast } from "../dom.js";
import { t, told } from "../i18n.js";
import { hostPath } from "../router.js";

const CLOSED = ["revoked", "retired"];

/** Says what the buttons are for a host as it is.
 * @param {Parts["host"]} part @param {string} hostname @param {Context} context */
export function hostActions(part, hostname, { api, user, store }) {
  const url = hostPath(hostname);
  const current = () => store.one("hosts", hostname);
  const change = (/** @type {ChangeHost} */ body) => api.patch(url, body);
  // The page may have been left by then.
  const undo = (/** @type {ChangeHost} */ body) => lasting.patch(url, body).catch((error) => toast(told(error), "bad"));
  const button = (/** @type {string} */ words, className = "") => part.actions.appendChild(create("button", words, { className, hidden: true }));
  const buttons = { edit: button(t("host.edit")), maintain: button(""), revoke: button(t("host.revoke"), "danger"), retire: button(t("host.retire"), "danger") };
  if (permit(buttons.edit, user, "hosts.edit")) buttons.edit.onclick = edit;
  if (permit(buttons.maintain, user, "hosts.edit")) buttons.maintain.onclick = maintain;
  if (permit(buttons.revoke, user, "hosts.revoke")) buttons.revoke.onclick = () => end({ words: "host.revoke", body: [t("host.revoke_what"), said(`cpctl hosts revoke ${hostname}`)], title: t("host.revoke_title", { name: hostname }) }, [reasonField(false)], (body) => api.post(`${url}/revoke`, body));
  if (permit(buttons.retire, user, "hosts.revoke")) buttons.retire.onclick = () => end({ words: "host.retire", body: [t("host.retire_what"), said(`cpctl hosts retire ${hostname}`)], title: t("host.retire_title", { name: hostname }) }, [], () => api.remove(url));

  async function edit() {
    const host = current();
    if (!host) return;
    const { groups, labels } = host;
    const fields = [
      { name: "groups", label: t("host.groups_field"), type: "list", value: groups.join(" ") },
      { name: "labels", label: t("host.labels_field"), type: "lines", value: linesOf(labels), rows: 4 },
    ];
    const before = { groups, labels };
    const line = said("");
    const wantedOf = (/** @type {Entered} */ entered) => ({ groups: entered.groups ?? [], labels: labelsOf(entered.labels ?? []) });
    const check = (/** @type {HTMLButtonElement} */ _, /** @type {Entered} */ entered) => text(line, setLine(hostname, before, wantedOf(entered)));
    const submit = async (/** @type {Entered} */ entered) => {
      const wanted = wantedOf(entered);
      const names = /** @type {const} */ (["groups", "labels"]).filter((name) => !isSame(wanted[name], before[name]));
      if (!names.length) return;
      const only = (/** @type {ChangeHost} */ values) => Object.fromEntries(names.map((name) => [name, values[name]]));
      await change(only(wanted));
      toast(t("host.changed", { name: hostname }), "", () => undo(only(before)));
    };
    await ask({ words: "host.edit", title: t("host.edit_title", { name: hostname }), yes: t("host.save"), body: [t("host.edit_what"), line], fields, check, submit });
  }

  function maintain() {
    const host = current();
    if (!host) return;
    const { maintenance } = host;
    act(buttons.maintain, async () => {
      await change({ maintenance: !maintenance });
      toast(t(maintenance ? "host.maintained" : "host.in_maintenance", { name: hostname }), "", () => undo({ maintenance }));
    });
  }

  /** There is no way back, so the name is typed.
   * @param {{}} question @param {Field[]} fields @param {(body: {reason?: string}) => unknown} send */
  function end(question, fields, send) {
    ask({ ...question, fields: [typedName(hostname), ...fields], submit: (/** @type {{reason?: string}} */ { reason }) => send(reason ? { reason } : {}) });
  }

  /** @param {Host} host */
  return function draw({ state, maintenance }) {
    const isClosed = CLOSED.includes(state);
    for (const button of [part.run, buttons.edit, buttons.maintain, buttons.revoke]) button.hidden = isClosed;
    buttons.retire.hidden = state === "retired";
    buttons.maintain.disabled = false; // as it is by now
    text(buttons.maintain, t(maintenance ? "host.maintain_off" : "host.maintain"));
    buttons.maintain.title = `cpctl hosts set ${hostname} --maintenance ${maintenance ? "off" : "on"}`;
    explain(part.actions);
  };
}

/** What the fields of a dialog say. @typedef {{groups?: string[], labels?: string[]}} Entered */

/** @param {string} name A field that wants this. */
export const typedName = (name) => ({ name: "typed", label: t("host.type_name", { name }), required: true, pattern: String.raw`\s*${name.replaceAll(".", "[.]")}\s*` });

/** @param {Host["labels"]} labels */
export const linesOf = (labels) => Object.entries(labels).map(([name, value]) => `${name}=${value}`).join("\n");

/** @param {string[]} lines */
function labelsOf(lines) {
  return Object.fromEntries(lines.map((line) => [line.split("=")[0].trim(), line.split("=").slice(1).join("=").trim()]));
}

/** @param {{}} one @param {{}} other */
const isSame = (one, other) => String(namesIn(one)) === String(namesIn(other));
/** @param {{}} values */
const namesIn = (values) => (Array.isArray(values) ? values : Object.entries(values).map(String)).toSorted();
