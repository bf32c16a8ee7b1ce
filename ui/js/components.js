// What every page shows: a state, a time, a bar, text of a host, a form.
/** @import {Columns, Counts, Field, Input, Kind, Parts, Question, Shows, Styled} from "./app.js" */
import { exactly, pieces, visible } from "./ansi.js";
import { create, keyedList, make, one, only, options, refs, text } from "./dom.js";
import { absolute, fold, percent, relative } from "./format.js";
import { language, t, told } from "./i18n.js";
import { hostPath } from "./router.js";
import { segments, stateOf } from "./states.js";
import { now } from "./stream.js";


/** @param {Element} place @param {Kind} kind @param {string} state @param {string} [word] */
export function badge(place, kind, state, word) {
  const found = stateOf(kind, state);
  const element = place.firstElementChild ?? place.appendChild(make("badge").root);
  element.className = `badge role-${found.role}`;
  one(element, "use", SVGUseElement).setAttribute("href", `#s-${found.shape}`);
  /** @type {Parts["badge"]} */
  const part = refs(element);
  text(part.word, word ?? t(found.word));
}

/** @param {Element} place @param {?string} [value] */
export function time(place, value) {
  if (!value) return place.replaceChildren();
  const element = only(place, "time");
  if (element.dateTime !== value) {
    element.dateTime = value;
    element.title = absolute(value, language);
  }
  text(element, relative(value, now(), language));
}

/** @param {?string} value */
export function timeNode(value) {
  const place = create("span");
  time(place, value);
  return place;
}

setInterval(() => {
  for (const element of document.querySelectorAll("time")) text(element, relative(element.dateTime, now(), language));
}, 1000);

/** @param {Element} place @param {string} href @param {unknown} words */
export function anchor(place, href, words) {
  const element = only(place, "a");
  element.href = href;
  text(element, words);
  return element;
}

/** @param {Element} place @param {?number} fraction */
export function meter(place, fraction) {
  if (fraction == null) return place.replaceChildren();
  if (!place.firstElementChild) place.append(create("span", "", { className: "meter" }), create("span"));
  const [bar, words] = place.children;
  only(bar, "span").style.setProperty("--share", percent(fraction).replace(" ", ""));
  text(words, percent(fraction));
}

/** How a column shows its values, where it is no state.
 * @type {Record<string, (cell: Element, value: any) => unknown>} */
const AS = { time, meter, percent: (_, value) => percent(value), host: (cell, name) => anchor(cell, hostPath(name), name) };

/** The heads of a table say what a column shows; or `own` gives a text, or fills the cell.
 * @template T @template {string} [Own=never] @param {HTMLTableElement & Columns<NoInfer<keyof T | Own>>} root
 * @param {NoInfer<keyof T>} key @param {Shows<T, Own>} [own] */
export function rowsOf(root, key, own) {
  const shows = /** @type {Shows<T>} */ (own ?? {});
  const heads = [...root.rows[0].cells];
  const body = root.createTBody();

  function createRow() {
    const row = create("tr");
    for (const { className, textContent } of heads) Object.assign(row.insertCell(), { className }).dataset.head = textContent;
    return row;
  }

  /** @param {T} item @param {HTMLTableCellElement} cell @param {DOMStringMap} head */
  function show(item, cell, { of = "", as, kind }) {
    const value = item[/** @type {keyof T} */ (of)];
    if (kind) return badge(cell, /** @type {Kind} */ (kind), String(value));
    return shows[of] ? shows[of](item, cell) : as ? AS[as](cell, value) : (value ?? "");
  }

  /** @param {HTMLTableRowElement} row @param {T} item */
  function fill(row, item) {
    for (const [place, { dataset }] of heads.entries()) {
      const shown = show(item, row.cells[place], dataset);
      if (shown !== undefined && !(shown instanceof Node)) text(row.cells[place], shown);
    }
  }
  return { body, createRow, fill, draw: (/** @type {Iterable<T>} */ items) => keyedList(body, items, (item) => item[key], createRow, fill) };
}

/** @param {Element} place @param {Counts} counts @param {Kind} [kind] */
export function bar(place, counts, kind) {
  place.replaceChildren(
    ...segments(counts, kind).map(([role, count]) => {
      const segment = create("span", "", { className: `role-${role}` });
      segment.style.setProperty("--share", `${count}`);
      return segment;
    }),
  );
}

/** @param {string} source */
export const output = (source, stream = "") => pre(pieces(source), stream);

/** @param {string} source */
export const said = (source) => pre(exactly(source), "exact");

/** @param {Styled[]} parts @param {string} kind */
function pre(parts, kind) {
  const element = create("pre", "", { className: `output ${kind}`, tabIndex: 0 });
  for (const { classes, text: shown } of parts) {
    element.append(classes.length ? create("span", shown, { className: classes.join(" ") }) : shown);
  }
  return element;
}

/** @param {HTMLElement} place @param {string} message @param {string} [href] @param {string} [action] */
export function empty(place, message, href, action) {
  place.hidden = false;
  place.replaceChildren(visible(message));
  if (href) place.append(create("br"), create("a", action, { className: "button", href }));
}

/** A field; what is not named here are properties of its input. Types of ours are in READERS. @param {Field} field */
export function field({ name, label, type = "text", value, choices, offers, ...more }) {
  const tag = choices ? "select" : ["lines", "json"].includes(type) ? "textarea" : "input";
  const input = Object.assign(/** @type {Input} */ (document.createElement(tag)), { name, autocomplete: "off", spellcheck: false });
  if (input instanceof HTMLInputElement) input.type = type; // one that it does not know is a text
  if (input.type === "text" && more.required) Object.assign(input, { pattern: String.raw`.*\S.*` });
  Object.assign(input, more);
  if (choices) options(input, choices, (choice) => choice);
  input.value = value || input.value;
  if (type === "json") input.oninput = () => {
    const isWrong = input.value.trim() !== "" && !isJson(input.value);
    input.setCustomValidity(isWrong ? "JSON" : "");
    input.ariaInvalid = isWrong ? "true" : null;
  };
  const root = create("label", "", { className: "field" });
  root.append(label instanceof Node ? label : create("span", label), input);
  if (offers) {
    options(root.appendChild(create("datalist", "", { id: `offers-${name}` })), offers, () => "");
    input.setAttribute("list", `offers-${name}`);
  }
  return root;
}

/** @type {Record<string, (typed: any) => unknown>} */
const READERS = { number: Number, checkbox: Boolean, list: namesOf, lines: (typed) => typed.split("\n").filter(Boolean), json: (typed) => (isJson(typed) ? JSON.parse(typed) : typed), amount: amountOf, canary };

/** It is not, until all of it is typed. @param {string} typed */
function isJson(typed) {
  try {
    return JSON.parse(typed) !== undefined;
  } catch {
    return false;
  }
}

/** @param {string} typed */
export function namesOf(typed) {
  return typed.split(/[\s,]+/).filter(Boolean);
}

/** What is no number stays as it is, as "10%". @param {string} typed */
function amountOf(typed) {
  return /^\d+$/.test(typed) ? Number(typed) : typed;
}

/** How many hosts, or which. @param {string} typed */
function canary(typed) {
  return typeof amountOf(typed) === "number" ? Number(typed) : namesOf(typed);
}

/** What the fields of a form say, without those that are empty; "a.b" is `b` of `a`.
 * @template {{}} [T=Record<string, unknown>] @param {Field[]} fields @param {HTMLFormElement} form
 * @returns {T} That of the fields' names. */
export function valuesOf(fields, form) {
  /** @type {Record<string, any>} */
  const found = {};
  for (const { name, type = "text", multiple } of fields) {
    const input = /** @type {HTMLInputElement & HTMLSelectElement} */ (form.elements.namedItem(name));
    const chosen = multiple && [...input.selectedOptions].map((option) => option.value);
    const value = chosen || (type === "checkbox" ? input.checked && "true" : type === "password" ? input.value : input.value.trim());
    if (!value || !value.length) continue;
    const [inner, outer] = name.split(".").reverse();
    (outer ? (found[outer] ??= {}) : found)[inner] = READERS[type]?.(value) ?? value;
  }
  return /** @type {T} */ (found);
}

/** Ask in a dialog; resolves to what its fields say, or to null. With `submit` it stays until that has worked.
 * @template {{}} [T=Record<string, unknown>] @param {Question<T>} question @returns {Promise<?T>} */
export function ask({ words = "", given, title = t(words, given), body = t(`${words}_what`, given), fields = [], yes = t(words, given), no = t("shell.cancel"), check = () => {}, submit = null }) {
  const part = make("ask");
  text(part.title, title);
  part.body.append(...[body].flat().map(paragraph), ...fields.map(field));
  text(part.yes, yes);
  text(part.no, no);
  /** @returns {T} */
  const read = () => valuesOf(fields, part.form);
  const changed = () => {
    part.yes.disabled = !part.form.checkValidity();
    check(part.yes, read());
  };
  part.root.oninput = changed;
  changed();
  part.form.onsubmit = async (event) => {
    if (event.submitter !== part.yes || !submit) return;
    event.preventDefault();
    part.yes.disabled = true;
    try {
      await submit(read(), part.waits);
      part.root.close("yes");
    } catch (error) {
      text(part.error, told(error));
      part.yes.disabled = false;
    }
  };
  document.body.append(part.root);
  part.root.showModal();
  part.root.scrollTop = 0; // a field further down has the focus
  return new Promise((resolve) => {
    part.root.onclose = () => {
      part.root.remove();
      resolve(part.root.returnValue === "yes" ? read() : null);
    };
  });
}

/** @param {string | Node} content */
function paragraph(content) {
  if (content instanceof Node) return content;
  const element = create("p");
  text(element, content);
  return element;
}

/** @param {boolean} required */
export const reasonField = (required) => ({ name: "reason", label: t(required ? "run.reason_needed" : "run.reason"), maxLength: 256, required });
