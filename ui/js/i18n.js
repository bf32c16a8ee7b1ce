// The words of the page: flat keys, whole sentences, plurals by the language's own rules.
const LANGUAGES = ["en", "zh-CN"];

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
