// Under a field in which hosts are asked for: the term that is wrong, and why.
/** @import {WrongTerm} from "./app.js" */
import { visible } from "./ansi.js";
import { create } from "./dom.js";
import { t } from "./i18n.js";

const WRONG_MS = 500; // nobody is told that a word is wrong while it is typed

/** What shows the error of a query, or that it has none; `words` make a sentence of the reason.
 * @param {HTMLInputElement} input @param {(reason: string) => string} words @param {AbortSignal} signal */
export function marksWrong(input, words, signal) {
  const place = create("p", "", { className: "field-error wrong", id: `wrong-${input.name}`, role: "alert" });
  let timer = 0;
  input.parentElement?.after(place);
  input.setAttribute("aria-describedby", place.id);

  /** @param {?WrongTerm} error @param {string} query */
  function show(error, query) {
    input.ariaInvalid = error ? "true" : null;
    place.replaceChildren();
    if (!error) return;
    const line = create("code", query.slice(0, error.at));
    line.append(create("mark", error.term), visible(query.slice(error.at + error.term.length)));
    place.append(line, " ", visible(words(t(`query.${error.reason}`, error.given))));
  }

  signal.addEventListener("abort", () => clearTimeout(timer));
  return (/** @type {?WrongTerm} */ error, /** @type {string} */ query) => {
    clearTimeout(timer);
    if (error && input === document.activeElement) timer = setTimeout(() => show(error, query), WRONG_MS);
    else show(error, query);
  };
}
