// What is asked before something is run.
/** @import {Confirmed, Preview} from "../app.js" */
import { ask, reasonField, said } from "../components.js";
import { fold } from "../format.js";
import { t } from "../i18n.js";

export const FIRST_HOSTS = 50; // that are named

/** Ask as much as the guard or an approval wants; resolves to `body` with the answers, or to null.
 * @template {Confirmed} T @param {Preview} preview @param {T} body @param {(string | Node)[]} more
 * @param {Confirmed} what */
export async function confirmRun(preview, body, more = [], { command, user } = body, isApproval = false) {
  const { count: n, guard: { level } } = preview;
  if (level < 2 && !isApproval) return body;
  const number = { name: "number", label: t("run.type_number", { n }), inputMode: "numeric", required: true, pattern: String.raw`\s*${n}\s*` };
  /** @type {?{reason?: string}} */
  const answer = await ask({
    title: t(isApproval ? "run.ask_title" : "run.confirm", { n }),
    body: [said(command ?? ""), fold(preview.hosts.slice(0, FIRST_HOSTS)), t("run.confirm_user", { user }), ...more],
    yes: t(isApproval ? "run.ask" : "run.submit", { n }),
    fields: isApproval ? [{ ...reasonField(true), value: body.reason, autofocus: true }] : level < 3 ? [] : [number, ...(body.reason ? [] : [reasonField(true)])],
  });
  return answer && { ...body, ...(answer.reason && { reason: answer.reason }) };
}
