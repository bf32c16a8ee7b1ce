// A host is brought in by a token, or registered by hand; and the page says when it is there.
/** @import {Context, RegisterHost} from "./app.js" */
import { enrolment } from "./views/access.js";
import { ask } from "./components.js";
import { create, one, permit, toast } from "./dom.js";
import { t } from "./i18n.js";

const FIELDS = [
  { name: "hostname", label: "access.field.hostname", required: true, autofocus: true },
  { name: "public_key", label: "fleet.public_key", required: true },
  { name: "groups", label: "access.field.groups", type: "list" },
];

/** `known`: resolves once the hosts that are there already are here, too; `signal` ends with the panel.
 * @param {Element} place @param {Context} context @param {Promise<unknown>} known @param {() => void} close */
export async function addHost(place, context, known, close) {
  const { store, signal, user } = context;
  const panel = enrolment(context);
  const byHand = create("button", t("fleet.by_hand"), { onclick: () => registerByHand(context) });
  one(panel, ".actions", HTMLElement).append(byHand, create("button", t("shell.close"), { onclick: close }));
  if (!permit(byHand, user, "hosts.enrol")) byHand.onclick = null;
  place.replaceChildren(panel);
  await known;
  const before = new Set(store.all("hosts").map((host) => host.hostname));
  store.subscribe(["hosts"], () => {
    const added = store.all("hosts").filter((host) => host.state === "online" && !before.has(host.hostname));
    for (const { hostname } of added) {
      before.add(hostname);
      toast(t("fleet.is_online", { name: hostname }));
    }
  }, signal);
}

/** @param {Context} context */
async function registerByHand({ api }) {
  /** @param {RegisterHost} body */
  const submit = (body) => api.post("/hosts", body);
  const said = await ask({ words: "fleet.by_hand", fields: FIELDS.map((field) => ({ ...field, label: t(field.label) })), submit });
  if (said) toast(t("fleet.registered", { name: said.hostname }));
}
