// What a task was asked to do, as the Run page is filled in with it.
/** @import {Context, RunRequest, Target, TaskRow} from "../app.js" */
import { EXPIRY_S } from "../commandline.js";
import { t } from "../i18n.js";
import { link, taskPath } from "../router.js";

const UNSHOWN = /** @type {const} */ (["argv", "env", "secrets", "cwd", "stdin"]); // on the Run page

/** @param {RunRequest} asked */
export const isUnshown = (asked) => UNSHOWN.some((name) => asked[name]);

/** @param {TaskRow} task @param {?RunRequest} asked */
export function againOf({ target: at, rollout, command, user, timeout, when_offline, reason }, asked) {
  /** @type {Target} */
  const target = at;
  const isUsual = asked?.expires_in === EXPIRY_S[rollout ? "rollout" : "once"];
  const where = target.all ? { all: 1 } : target.hosts ? { hosts: target.hosts.join(",") } : target;
  const how = Object.entries(rollout ?? {}).map(([name, value]) => [name, [value].flat().join(",")]);
  return { ...where, ...Object.fromEntries(how), command, user, timeout, when_offline, reason, expires_in: isUsual ? null : asked?.expires_in };
}

/** The Run page filled in with a task, of which no row has all that was asked for.
 * @param {string} taskId @param {Context} context */
export async function againLink(taskId, { api, user }) {
  if (!user.permissions.includes("events.read")) throw new Error(t("shell.needs", { permission: "events.read" }));
  const task = await api.get(taskPath(taskId));
  const { body } = await api.get(`/events/${task.seq}`);
  const { request } = /** @type {{request: RunRequest}} */ (body);
  if (isUnshown(request)) throw new Error(t("task.again_not"));
  return link("/run", againOf(task, request));
}
