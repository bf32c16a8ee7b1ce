// The words of the page: flat keys, whole sentences, plurals by the language's own rules.
const LANGUAGES = ["en", "zh-CN"];

// What the server names stands at the end of its words: "not registered: web8, web9".
const NAMED = /(?:: | permission )(?!none$|nothing of)(?<named>.+)$/;

let words = {};
let causes = []; // `[pattern, key]` of what the server says in English
let plural = new Intl.PluralRules("en");
export let language = "en";

export function preferred(stored, wanted) {
  const known = [stored, ...wanted].map((name) => LANGUAGES.find((one) => one.split("-")[0] === name?.split("-")[0]));
  return known.find(Boolean) ?? "en";
}

export async function load(name) {
  words = await read(name);
  const said = name === "en" ? {} : await read("en");
  causes = Object.keys(said).filter((key) => key.startsWith("cause.")).map((key) => [patternOf(said[key]), key]);
  plural = new Intl.PluralRules(name);
  language = name;
  document.documentElement.lang = name;
}

const patternOf = (said) => new RegExp(`^${said.replace(/\{(\w+)\}/g, "(?<$1>.+)")}$`);

async function read(name) {
  return (await fetch(new URL(`../i18n/${name}.json`, import.meta.url))).json();
}

/** The words of a key; with `n`, in the form for that number. */
export function t(key, given = {}) {
  let found = words[key];
  if (found !== null && typeof found === "object") found = found[plural.select(given.n)] ?? found.other;
  if (found === undefined) return key;
  return found.replace(/\{(\w+)\}/g, (whole, name) => (name in given ? given[name] : whole));
}

/** By its code, with what the server names; else in the server's own words. */
export function told({ message, code, detail = message, errors = [], body = {} }) {
  const list = (names) => names?.join(", ") || "–";
  const what = t(`problem.${code}`, { ...body, joined: list(body.joined), left: list(body.left) });
  if (what === `problem.${code}`) return detail;
  const fields = errors.map(({ field, message: words }) => `${field}: ${words}`).join("; ");
  const isAllNamed = code === "invalid_request" || body.action !== undefined; // the hosts and the rules, too
  const named = isAllNamed ? fields || detail : NAMED.exec(detail)?.groups.named;
  return named ? t("shell.problem_named", { what, named }) : t("shell.problem", { what });
}

/** What a person or a host wrote stays as it is. */
export function because(cause) {
  for (const [pattern, key] of causes) {
    const found = pattern.exec(cause);
    if (found) return t(key, found.groups);
  }
  return cause;
}
