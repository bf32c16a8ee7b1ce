// What is asked for on a page, as a line for a shell: the same request by cpctl. No DOM.
/** @import {RunCommand, Target} from "./app.js" */

export const EXPIRY_S = { once: 600, rollout: 86_400 }; // within which it may start where nothing is said: the server's own

/** A word for a shell: as it is where that is safe, else in single quotes, whatever is in it. @param {string} word */
export const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

/** The words of a template's command, with what was said for its parameters, as a line.
 * @param {string[]} argv @param {Record<string, string | number>} said */
export const filled = (argv, said) => argv.map((word) => quoted(word.replace(/\{(\w+)\}/g, (whole, name) => String(said[name] ?? whole)))).join(" ");

/** @param {RunCommand} request */
export function cpctlLine({ target, command, user, timeout, template, parameters, when_offline: whenOffline, expires_in: expiresIn, reason, rollout }) {
  /** @type {[string, unknown][]} */
  const parts = Object.entries(parameters ?? {}).map(([name, value]) => ["-p", `${name}=${value}`]);
  /** @type {[string, unknown][]} */
  const what = template == null ? [["-u", user], ["--timeout", timeout]] : [["--template", template], ...parts];
  /** @type {[string, unknown][]} */
  const how = [
    ["--expires-in", expiresIn],
    ["--batch", rollout?.max_concurrency],
    ["--max-failures", rollout?.max_errors],
    ["--canary", rollout?.canary],
    ["--canary-wait", rollout?.wait],
    ["--reason", reason],
  ];
  const flags = [["-t", whereOf(target)], ...what, ...how].filter(([, value]) => value != null && value !== "").map(([flag, value]) => given(flag, String(value)));
  if (whenOffline === "skip") flags.push("--skip-offline");
  if (template == null) flags.push("--", quoted(command ?? "")); // one word is a shell line as it is
  return `cpctl run ${flags.join(" ")}`;
}

/** A change of a host's groups and labels. @typedef {{groups: string[], labels: Record<string, string>}} Assigned
 * @param {string} hostname @param {Assigned} before @param {Assigned} wanted */
export function setLine(hostname, before, wanted) {
  /** @type {[string, string][]} */
  const flags = [
    ...wanted.groups.filter((name) => !before.groups.includes(name)).map(flag("--group")),
    ...before.groups.filter((name) => !wanted.groups.includes(name)).map((name) => flag("--group")(`-${name}`)),
    ...Object.entries(wanted.labels).filter(([name, value]) => before.labels[name] !== value).map((label) => flag("--label")(label.join("="))),
    ...Object.keys(before.labels).filter((name) => !(name in wanted.labels)).map((name) => flag("--label")(`-${name}`)),
  ];
  return ["cpctl hosts set", quoted(hostname), ...flags.map(([name, value]) => given(name, value))].join(" ");
}

/** @param {string} name @returns {(value: string) => [string, string]} */
const flag = (name) => (value) => [name, value];

/** @param {Target} target */
function whereOf({ host, group, hosts, query }) {
  if (group != null) return `group:${group}`;
  if (query != null) return `q:${query}`;
  return host ?? hosts?.join(",") ?? "all";
}

/** A value that begins with "-" would be taken for another flag. @param {string} flag @param {string} value */
function given(flag, value) {
  if (!value.startsWith("-")) return `${flag} ${quoted(value)}`;
  return flag.startsWith("--") ? `${flag}=${quoted(value)}` : `${flag}${quoted(value)}`;
}
