// The keyboard: single keys, which do nothing while one types.
import { around, one } from "./dom.js";

const TYPING = "input:not([type=checkbox], [type=radio]), textarea, select, dialog";
const OWN = "a, button, summary, [role=listbox]"; // which know what Enter and the arrows mean to them
const ROWS = "main tbody tr:has(a, button)";

/** @type {Record<string, () => unknown>} */
const KEYS = {
  "/": () => one(document, "#search", HTMLElement).focus(),
  j: () => moveRow(1),
  k: () => moveRow(-1),
  x: () => click(rowInFocus(), "input[type=checkbox]"),
};

/** @type {typeof KEYS} */
const IN_A_ROW = { ArrowDown: KEYS.j, ArrowUp: KEYS.k };

const rowInFocus = () => document.activeElement?.closest(ROWS) ?? null;

/** @param {?ParentNode} place @param {string} selector */
function click(place, selector) {
  const found = place?.querySelector(selector);
  if (found instanceof HTMLElement) found.click();
}

/** `more` are keys of the shell; they and those above are off where `isOn` says so.
 * @param {typeof KEYS} more @param {() => boolean} isOn */
export function listen(more, isOn) {
  let isGoing = false; // after a "g"
  document.addEventListener("keydown", (event) => {
    const { key } = event;
    if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey || around(event, TYPING)) return;
    const page = isGoing ? `#nav [data-key="${CSS.escape(key)}"]` : "";
    isGoing = key === "g";
    const act = actOf(event) ?? (isOn() && (page && document.querySelector(page) ? () => click(document, page) : (more[key] ?? KEYS[key])));
    if (!act) return;
    event.preventDefault(); // a "/" would also be typed into the field that it leads to
    act();
  });
}

/** What these keys do to the row that has the focus is no shortcut: they do nothing elsewhere.
 * @param {KeyboardEvent} event */
function actOf(event) {
  const row = rowInFocus();
  if (!row) return null;
  if (event.key === "Enter" && !around(event, OWN)) return () => click(row, "a, button");
  return around(event, "[role=listbox]") ? null : IN_A_ROW[event.key];
}

/** A list of which only a part is in the document moves by itself. @param {number} step */
function moveRow(step) {
  if (!document.activeElement?.dispatchEvent(new CustomEvent("move", { bubbles: true, cancelable: true, detail: step }))) return;
  const rows = [...document.querySelectorAll(ROWS)];
  const at = rows.findIndex((row) => row === rowInFocus());
  const next = Math.min(rows.length - 1, Math.max(at < 0 ? -1 : 0, at + step));
  const found = rows.at(next)?.querySelector("a, button");
  if (found instanceof HTMLElement) found.focus();
}
