// The keyboard: single keys, which do nothing while one types.
const TYPING = "input:not([type=checkbox], [type=radio]), textarea, select, dialog";
const OWN = "a, button, summary, [role=listbox]"; // which know what Enter and the arrows mean to them
const ROWS = "main tbody tr:has(a, button)";

const KEYS = {
  "/": () => document.getElementById("search").focus(),
  j: () => moveRow(1),
  k: () => moveRow(-1),
  x: () => rowInFocus()?.querySelector("input[type=checkbox]")?.click(),
};

const IN_A_ROW = { ArrowDown: KEYS.j, ArrowUp: KEYS.k };

const rowInFocus = () => document.activeElement.closest(ROWS);

/** `more` are keys of the shell; they and those above are off where `isOn` says so. */
export function listen(more, isOn) {
  let isGoing = false; // after a "g"
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey || target.closest(TYPING)) return;
    const page = isGoing && document.querySelector(`#nav [data-key="${CSS.escape(key)}"]`);
    isGoing = key === "g";
    const act = actOf(key, target) ?? (isOn() && (page ? () => page.click() : (more[key] ?? KEYS[key])));
    if (!act) return;
    event.preventDefault(); // a "/" would also be typed into the field that it leads to
    act();
  });
}

/** What these keys do to the row that has the focus is no shortcut: they do nothing elsewhere. */
function actOf(key, target) {
  const row = rowInFocus();
  if (!row) return null;
  if (key === "Enter" && !target.closest(OWN)) return () => row.querySelector("a, button").click();
  return target.closest("[role=listbox]") ? null : IN_A_ROW[key];
}

/** A list of which only a part is in the document moves by itself. */
function moveRow(step) {
  if (!document.activeElement.dispatchEvent(new CustomEvent("move", { bubbles: true, cancelable: true, detail: step }))) return;
  const rows = [...document.querySelectorAll(ROWS)];
  const at = rows.indexOf(rowInFocus());
  const next = Math.min(rows.length - 1, Math.max(at < 0 ? -1 : 0, at + step));
  rows.at(next)?.querySelector("a, button").focus();
}
