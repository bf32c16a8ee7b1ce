// What an administrator changes about a host: groups and labels, maintenance, and its end.
import { during } from "../api.js";
import { ask, reasonField } from "../components.js";
import { act, create, explain, permit, text, toast } from "../dom.js";
import { t, told } from "../i18n.js";
import { hostPath } from "../router.js";

const CLOSED = ["revoked", "retired"];

/** Says what the buttons are for a host as it is. */
export function hostActions(part, hostname, { api, user, store }) {
  const url = hostPath(hostname);
  const current = () => store.one("hosts", hostname);
  const change = (body) => api.patch(url, body);
  // The page may have been left by then.
  const undo = (body) => during(new AbortController().signal).patch(url, body).catch((error) => toast(told(error), "bad"));
  const button = (words, className = "") => part.actions.appendChild(create("button", words, { className, hidden: true }));
  const buttons = { edit: button(t("host.edit")), maintain: button(""), revoke: button(t("host.revoke"), "danger"), retire: button(t("host.retire"), "danger") };
  if (permit(buttons.edit, user, "hosts.edit")) buttons.edit.onclick = edit;
  if (permit(buttons.maintain, user, "hosts.edit")) buttons.maintain.onclick = maintain;
  if (permit(buttons.revoke, user, "hosts.revoke")) buttons.revoke.onclick = () => end({ words: "host.revoke", title: t("host.revoke_title", { name: hostname }) }, [reasonField(false)], (body) => api.post(`${url}/revoke`, body));
  if (permit(buttons.retire, user, "hosts.revoke")) buttons.retire.onclick = () => end({ words: "host.retire", title: t("host.retire_title", { name: hostname }) }, [], () => api.remove(url));

  async function edit() {
    const { groups, labels } = current();
    const fields = [
      { name: "groups", label: t("host.groups_field"), type: "list", value: groups.join(" ") },
      { name: "labels", label: t("host.labels_field"), type: "lines", value: linesOf(labels), rows: 4 },
    ];
    const submit = async (said) => {
      const wanted = { groups: said.groups ?? [], labels: labelsOf(said.labels ?? []) };
      const before = { groups, labels };
      const names = Object.keys(wanted).filter((name) => !isSame(wanted[name], before[name]));
      if (!names.length) return;
      const only = (values) => Object.fromEntries(names.map((name) => [name, values[name]]));
      await change(only(wanted));
      toast(t("host.changed", { name: hostname }), "", () => undo(only(before)));
    };
    await ask({ words: "host.edit", title: t("host.edit_title", { name: hostname }), yes: t("host.save"), fields, submit });
  }

  function maintain() {
    const { maintenance } = current();
    act(buttons.maintain, async () => {
      await change({ maintenance: !maintenance });
      toast(t(maintenance ? "host.maintained" : "host.in_maintenance", { name: hostname }), "", () => undo({ maintenance }));
    });
  }

  /** There is no way back, so the name is typed. */
  function end(question, fields, send) {
    const typed = { name: "hostname", label: t("host.type_name", { name: hostname }), required: true, pattern: String.raw`\s*${hostname.replaceAll(".", "[.]")}\s*` };
    ask({ ...question, fields: [typed, ...fields], submit: ({ reason }) => send(reason ? { reason } : {}) });
  }

  return function draw({ state, maintenance }) {
    const isClosed = CLOSED.includes(state);
    for (const button of [part.run, buttons.edit, buttons.maintain, buttons.revoke]) button.hidden = isClosed;
    buttons.retire.hidden = state === "retired";
    buttons.maintain.disabled = false; // as it is by now
    text(buttons.maintain, t(maintenance ? "host.maintain_off" : "host.maintain"));
    explain(part.actions);
  };
}

export const linesOf = (labels) => Object.entries(labels).map(([name, value]) => `${name}=${value}`).join("\n");

function labelsOf(lines) {
  return Object.fromEntries(lines.map((line) => [line.split("=")[0].trim(), line.split("=").slice(1).join("=").trim()]));
}

const isSame = (one, other) => String(namesIn(one)) === String(namesIn(other));
const namesIn = (values) => (Array.isArray(values) ? values : Object.entries(values).map(String)).toSorted();
