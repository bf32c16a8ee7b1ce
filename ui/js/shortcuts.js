// The keyboard: single keys, which do nothing while one types.
import { toast } from "./dom.js";
import { t } from "./i18n.js";

const TYPING = "input:not([type=checkbox], [type=radio]), textarea, select, dialog";

const KEYS = {
  "/": () => document.querySelector("main input[type=search]")?.focus(),
  "?": () => toast(t("shell.keys")),
  j: () => moveRow(1),
  k: () => moveRow(-1),
  x: () => document.activeElement.closest("tr")?.querySelector("input[type=checkbox]")?.click(),
};

export function listen() {
  let isGoing = false; // after a "g"
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey || event.target.closest(TYPING)) return;
    const page = isGoing && document.querySelector(`#nav [data-key="${CSS.escape(event.key)}"]`);
    const act = page ? () => page.click() : KEYS[event.key];
    isGoing = event.key === "g";
    if (!act) return;
    event.preventDefault(); // a "/" would also be typed into the field that it leads to
    act();
  });
}

/** A list of which only a part is in the document moves by itself. */
function moveRow(step) {
  if (!document.activeElement.dispatchEvent(new CustomEvent("move", { bubbles: true, cancelable: true, detail: step }))) return;
  const rows = [...document.querySelectorAll("main tbody tr:has(a, button)")];
  const at = rows.indexOf(document.activeElement.closest("tr"));
  const next = Math.min(rows.length - 1, Math.max(at < 0 ? -1 : 0, at + step));
  rows.at(next)?.querySelector("a, button").focus();
}
