// What the shell tells on every page: that all is stopped, and how many wait for a decision.
/** @import {Approval, Context, Me, Reason, Section} from "./app.js" */
import data from "../access.json" with { type: "json" };
import { visible } from "./ansi.js";
import { ask, reasonField, timeNode } from "./components.js";
import { create, every, permit, text } from "./dom.js";
import { t } from "./i18n.js";

const SECTIONS = /** @type {Section[]} */ (Object.values(data.tabs).flat());
const LOOK_MS = 10_000;

/** Whether a section of the Access page is this user's.
 * @param {{needs?: string[]}} section @param {{user: Me}} context */
export const isShown = ({ needs }, { user }) => !needs || needs.some((permission) => user.permissions.includes(permission));

/** @param {Element} place @param {Context} context */
export function followWaiting(place, context) {
  const specs = SECTIONS.filter((spec) => spec.isLive && isShown(spec, context));
  /** @param {Section} section @returns {Promise<Partial<Approval>[]>} */
  const read = async ({ path }) => {
    const answer = await context.api.look(path).catch(() => null);
    return /** @type {?{items: Partial<Approval>[]}} */ (answer)?.items ?? [];
  };

  async function look() {
    if (document.hidden) return;
    const items = (await Promise.all(specs.map(read))).flat();
    const n = items.filter((row) => row.may_decide !== false).length;
    text(place, n || "");
  }
  every(LOOK_MS, look, context.signal);
  look();
}

/** @param {string} words @param {(said: Reason) => Promise<unknown>} submit */
export async function askStop(words, submit) {
  await ask({ words, fields: [reasonField(true)], submit });
  readStop();
}

let readStop = async () => {};

/** @param {HTMLElement} banner @param {Context} context */
export function followStop(banner, { api, signal, store, user }) {
  readStop = async () => {
    const found = await api.look("/stop").catch(() => null);
    if (!found || found.seq === store.one("stop", "")?.seq) return;
    store.put("stop", "", Date.now(), found);
    banner.hidden = !found.stopped;
    const lift = create("button", t("stop.lift"));
    banner.replaceChildren(create("span", visible(t("stop.banner", found))), timeNode(found.since), lift);
    if (permit(lift, user, "stop.lift")) lift.onclick = () => askStop("stop.lift", (body) => api.remove("/stop", body));
  };
  every(LOOK_MS, () => document.hidden || readStop(), signal);
  readStop();
}
