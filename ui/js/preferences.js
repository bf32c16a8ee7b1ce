// How somebody wants to see things, in this browser.
import { toast } from "./dom.js";
import { useUtc } from "./format.js";
import { language, t } from "./i18n.js";

const LANGUAGES = { en: "English", "zh-CN": "简体中文" };
const AT_ONCE = ["theme", "density", "shortcuts"]; // the others are in words that are there already

/** @param {string} name */
export function remembered(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** What can be chosen, by the value that is kept; the first where nothing is. */
export const choices = () => ({
  language: LANGUAGES,
  theme: { "": t("preferences.theme_auto"), light: t("preferences.theme_light"), dark: t("preferences.theme_dark") },
  time: { "": t("preferences.time_local"), utc: "UTC" },
  density: { "": t("preferences.density_normal"), dense: t("preferences.density_dense") },
  shortcuts: { "": t("preferences.shortcuts_on"), off: t("preferences.shortcuts_off") },
});

/** @param {string} name */
export const preference = (name) => (name === "language" ? language : (remembered(name) ?? ""));

/** Whether loading the page again would lose what somebody has typed, chosen, or is shown this once. */
export const wouldLose = () => document.querySelector("form[data-filled], .once:not([hidden]), tbody input:checked, .selection:not([hidden])") !== null;

/** @param {string} name @param {string} value */
export function prefer(name, value) {
  localStorage.setItem(name, value);
  if (AT_ONCE.includes(name)) apply();
  else if (wouldLose()) toast(t("preferences.later"));
  else location.reload();
}

export function apply() {
  for (const name of ["theme", "density"]) document.documentElement.dataset[name] = preference(name);
  useUtc(preference("time") === "utc");
}
