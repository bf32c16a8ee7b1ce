// A part of many rows at a time, so that the page stays small however many there are.
import { create, text } from "../dom.js";
import { t } from "../i18n.js";

/** Which rows are shown, `from` one to before another, and buttons to others; `turned` is called after each turn.
 * @param {number} size @param {() => void} turned */
export function pager(size, turned) {
  const root = create("nav", "", { className: "row pager small", hidden: true, ariaLabel: t("pager.label") });
  const words = create("span", "", { className: "muted" });
  const [before, after] = [-1, 1].map((step) => create("button", t(step < 0 ? "pager.before" : "pager.after"), { onclick: () => turn(page + step) }));
  let page = 0;
  let last = 0;
  root.append(before, words, after);

  /** @param {number} wanted */
  function turn(wanted) {
    page = wanted;
    turned();
  }

  /** @param {number} count */
  function of(count) {
    last = Math.max(0, Math.ceil(count / size) - 1);
    page = Math.min(page, last);
    const [from, to] = [page * size, Math.min(count, (page + 1) * size)];
    root.hidden = last === 0;
    before.disabled = page === 0;
    after.disabled = page === last;
    text(words, t("pager.of", { from: from + 1, to, n: count }));
    return { from, to };
  }
  return { root, of, goTo: (/** @type {number} */ place) => (page = Math.floor(place / size)) };
}
