// The words of the page: flat keys, whole sentences, plurals by the language's own rules.
const LANGUAGES = ["en", "zh-CN"];

// What an answer of the server names stands at the end of its words: "not registered: web8, web9".
const NAMED = /(?:: | permission )(?!none$)(?<named>.+)$/;

// Why something is as it is, in the words of the control plane and its agents. Others say it in theirs.
const CAUSES = [
  ["registered, no heartbeat yet", "cause.registered"],
  ["a heartbeat came", "cause.heard"],
  ["the agent was stopped", "cause.stopped"],
  ["no heartbeat for {n} intervals of {s} s", "cause.silent"],
  ["a command came back: its queue is gone", "cause.came_back"],
  ["its journal went back in time", "cause.journal_back"],
  ["the agent connected anew", "cause.connected_anew"],
  ["an earlier boot of it goes on beside a later one", "cause.two_boots"],
  ["not registered", "cause.not_registered"],
  ["revoked", "cause.revoked"],
  ["retired", "cause.retired"],
  ["basic agent: no {what}", "cause.basic"],
  ["the host is offline", "cause.offline"],
  ["never delivered: nothing reached the host in time", "cause.never_delivered"],
  ["never sent: the rollout did not come to it in time", "cause.never_its_turn"],
  ["no word after it was sent; it may have run", "cause.silent_after_sent"],
  ["no word after it was started; it may have run", "cause.silent_after_started"],
  ["cancelled before it was delivered", "cause.cancelled_undelivered"],
  ["cancelled before it was started", "cause.cancelled_unstarted"],
  ["cancelled while it ran", "cause.cancelled"],
  ["{name} may not run this any more: the user is disabled", "cause.withdrawn_disabled"],
  ["{name} may not run this any more: no rule allows it", "cause.withdrawn_unallowed"],
  ["{name} may not run this any more: rule {rules}", "cause.withdrawn_denied"],
  ["it ran longer than {s} s", "cause.timed_out"],
  ["expired {s} s ago", "cause.expired"],
  ["expired before it could be started", "cause.expired_unstarted"],
  ["there is no account {name} on this host", "cause.no_account"],
  ["this host runs nothing as {name}", "cause.not_as"],
  ["the agent is not root and runs commands as {name} only", "cause.only_as"],
  ["rollout stopped: {failed} of {targets} failed, at most {most} may", "cause.rollout_stopped"],
  ["disk full", "cause.disk_full"],
  ["recursive delete at /", "cause.risk_delete"],
  ["makes a file system", "cause.risk_mkfs"],
  ["writes to a device", "cause.risk_device"],
  ["restarts or stops the machine", "cause.risk_restart"],
  ["empties the firewall", "cause.risk_firewall"],
  ["stops ssh or the agent", "cause.risk_lifeline"],
  ["removes users", "cause.risk_users"],
  ["all hosts", "cause.all_hosts"],
  ["more than {share} of the fleet", "cause.many_of_fleet"],
  ["more than {n} hosts", "cause.many_hosts"],
].map(([words, key]) => [new RegExp(`^${words.replace(/\{(\w+)\}/g, "(?<$1>.+)")}$`), key]);

let words = {};
let plural = new Intl.PluralRules("en");
export let language = "en";

export function preferred(stored, wanted) {
  if (LANGUAGES.includes(stored)) return stored;
  for (const name of wanted) {
    const same = LANGUAGES.find((known) => known.toLowerCase() === name.toLowerCase() || known.split("-")[0] === name.split("-")[0]);
    if (same) return same;
  }
  return "en";
}

export async function load(name) {
  const answer = await fetch(new URL(`../i18n/${name}.json`, import.meta.url));
  words = await answer.json();
  plural = new Intl.PluralRules(name);
  language = name;
  document.documentElement.lang = name;
}

/** The words of a key; with `n`, in the form for that number; `{name}` is replaced by what is given. */
export function t(key, given = {}) {
  let found = words[key];
  if (found !== null && typeof found === "object") found = found[plural.select(given.n)] ?? found.other;
  if (found === undefined) return key;
  return found.replace(/\{(\w+)\}/g, (whole, name) => (name in given ? String(given[name]) : whole));
}

/** What went wrong, by its code, with what the server names; a code without words is told in the server's own. */
export function told({ message, code, detail = message, errors = [], body = {} }) {
  const list = (names) => names?.join(", ") || "–";
  const what = t(`problem.${code}`, { ...body, joined: list(body.joined), left: list(body.left) });
  if (what === `problem.${code}`) return detail;
  const fields = errors.map(({ field, message: words }) => `${field}: ${words}`).join("; ");
  const isAllNamed = code === "invalid_request" || body.action !== undefined; // the hosts and the rules, too
  const named = isAllNamed ? fields || detail : NAMED.exec(detail)?.groups.named;
  return named ? t("shell.problem_named", { what, named }) : t("shell.problem", { what });
}

/** Why something is as it is, where that is one of the known causes; what a person or a host wrote stays as it is. */
export function because(cause) {
  for (const [pattern, key] of CAUSES) {
    const found = pattern.exec(cause);
    if (found) return t(key, found.groups);
  }
  return cause;
}
