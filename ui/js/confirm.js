// Before a command is sent: as much asking as its guard wants.
import { visible } from "./ansi.js";
import { output } from "./components.js";
import { confirmDialog } from "./dom.js";
import { fold } from "./hostlist.js";
import { t } from "./i18n.js";

const FIRST_HOSTS = 50;

/**
 * `body` with what was answered, null where the user would rather not. `more` are paragraphs that say what else matters.
 */
export async function confirmRun(preview, body, more = []) {
  const { level } = preview.guard;
  if (level < 2) return body;
  const answer = await confirmDialog({
    title: t("run.confirm", { n: preview.count }),
    body: [output(body.command, false), fold(preview.hosts.slice(0, FIRST_HOSTS)), visible(t("run.confirm_user", { user: body.user })), ...more],
    yes: t("run.submit", { n: preview.count }),
    expect: level >= 3 ? preview.count : null,
    needsReason: level >= 3 && !body.reason,
  });
  return answer && { ...body, ...(answer.reason && { reason: answer.reason }) };
}
