// The words of the page: flat keys, whole sentences, plurals by the language's own rules.
/** @import {Problem} from "./api.js" */
const LANGUAGES = ["en", "zh-CN"];

// What the server names stands at the end of its words: "not registered: web8, web9".
const NAMED = /(?:: | permission )(?!none$|nothing of)(?<named>.+)$/;

/** @type {Record<string, string | Record<string, string>>} */
let words = {};
/** @type {[RegExp, string][]} */
let causes = []; // `[pattern, key]` of what the server says in English
let plural = new Intl.PluralRules("en");
export let language = "en";

/** @param {?string} stored @param {readonly string[]} wanted */
export function preferred(stored, wanted) {
  const known = [stored, ...wanted].map((name) => LANGUAGES.find((one) => one.split("-")[0] === name?.split("-")[0]));
  return known.find(Boolean) ?? "en";
}

/** @param {string} name */
export async function load(name) {
  words = await read(name);
  const said = name === "en" ? {} : await read("en");
  causes = Object.keys(said).filter((key) => /^(cause|query)\./.test(key)).map((key) => [patternOf(said[key]), key]);
  plural = new Intl.PluralRules(name);
  language = name;
  document.documentElement.lang = name;
}

/** @param {string} said */
const patternOf = (said) => new RegExp(`^${said.replace(/\{(\w+)\}/g, "(?<$1>.+)")}$`);

/** @param {string} name */
async function read(name) {
  return (await fetch(new URL(`../i18n/${name}.json`, import.meta.url))).json();
}

/** The words of a key; with `n`, in the form for that number.
 * @param {string} key @param {Record<string, unknown>} [given] @returns {string} */
export function t(key, given = {}) {
  let found = words[key];
  if (found !== null && typeof found === "object") found = found[plural.select(Number(given.n))] ?? found.other;
  if (found === undefined) return key;
  return found.replace(/\{(\w+)\}/g, (whole, name) => (name in given ? String(given[name]) : whole));
}

/** By its code, with what the server names; else in the server's own words. @param {unknown} error */
export function told(error) {
  const { message, code, detail = message, errors = [], body = {} } = /** @type {Partial<Problem> & {message: string, detail?: string}} */ (error);
  /** @param {unknown} names */
  const list = (names) => (Array.isArray(names) && names.join(", ")) || "–";
  const what = t(`problem.${code}`, { ...body, joined: list(body.joined), left: list(body.left) });
  if (what === `problem.${code}`) return detail;
  const fields = errors.map(({ field, message: words }) => `${field}: ${because(words ?? "")}`).join("; ");
  const isAllNamed = code === "invalid_request" || body.action !== undefined; // the hosts and the rules, too
  const named = isAllNamed ? fields || detail : NAMED.exec(detail)?.groups?.named;
  return named ? t("shell.problem_named", { what, named }) : t("shell.problem", { what });
}

/** What a person or a host wrote stays as it is.
 * @template {?string} [T=string] @param {T} cause @returns {string | T} */
export function because(cause) {
  for (const [pattern, key] of causes) {
    const found = pattern.exec(String(cause));
    if (found) return t(key, { ...found.groups, reason: because(found.groups?.reason ?? "") }); // which has its own words
  }
  return cause;
}
