// A few words for the DOM: templates are cloned and filled with text, never with markup.
/** @import {Context, Given, Input, Made, Maker, Me, Params, Parts, Problem, Tags} from "./app.js" */
import { visible } from "./ansi.js";
import { isAbort, isAsking } from "./api.js";
import { t, told } from "./i18n.js";
import { link, moment } from "./router.js";

/** The element that is there, as this page is written.
 * @template {Element} E @param {ParentNode} root @param {string} selector @param {new () => E} kind */
export function one(root, selector, kind) {
  const found = root.querySelector(selector);
  if (found instanceof kind) return found;
  throw new Error(`there is no ${kind.name} ${selector}`);
}

/** What matches around the place of an event, or none.
 * @param {Event} event @param {string} selector @returns {?HTMLElement} */
export const around = ({ target }, selector) => (target instanceof Element ? target.closest(selector) : null);

/** A new element with a text, whoever wrote it.
 * @template {keyof Tags} T @param {T} tag @param {unknown} [words] @param {Partial<Tags[T]>} [more]
 * @returns {Tags[T]} */
export const create = (tag, words = "", more = {}) => Object.assign(document.createElement(tag), { textContent: visible(words), ...more });

/** @template {keyof Tags} T @param {Element} place @param {T} tag */
export const only = (place, tag) => /** @type {Tags[T]} */ (place.firstElementChild ?? place.appendChild(create(tag)));

/** @param {ParentNode} root */
export function translate(root) {
  for (const element of all(root, "[data-t]")) element.replaceChildren(...t(element.dataset.t ?? "").split("`").map(phrase));
  for (const element of all(root, "[data-label]")) {
    const words = t(element.dataset.label ?? "");
    Object.assign(element, { placeholder: words });
    element.setAttribute("aria-label", words);
  }
}

/** @param {ParentNode} root @param {string} selector @returns {NodeListOf<HTMLElement>} */
export const all = (root, selector) => root.querySelectorAll(selector);

/** @param {string} words @param {number} place */
const phrase = (words, place) => (place % 2 === 0 ? words : create("code", words));

/** A copy of a template: its elements by their `data-r`.
 * @template {keyof Parts} N @param {N} name @returns {Parts[N]} */
export function make(name) {
  const root = /** @type {Element} */ (one(document, `#${name}`, HTMLTemplateElement).content.firstElementChild?.cloneNode(true));
  translate(root);
  return refs(root);
}

/** @template {Parts[keyof Parts]} P @param {Element} root @returns {P} */
export function refs(root) {
  /** @type {Record<string, Element>} */
  const found = { root };
  for (const element of all(root, "[data-r]")) found[element.dataset.r ?? ""] = element;
  return /** @type {P} */ (found);
}

/** Show a text, whoever wrote it: what would deceive the eye is marked.
 * @param {Element} element @param {unknown} value */
export function text(element, value) {
  const wanted = visible(value);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** One child of `parent` for each item, `made` by a function or of a tag. Those that are there stay, and so do focus and selection.
 * @template T @template {Maker<T>} M
 * @param {Element} parent @param {Iterable<T>} items @param {(item: T) => unknown} keyOf @param {M} made
 * @param {(element: Made<M>, item: T) => unknown} update */
export function keyedList(parent, items, keyOf, made, update) {
  const old = new Map([.../** @type {Iterable<HTMLElement>} */ (parent.children)].map((element) => [element.dataset.key, element]));
  const wanted = [...items].map((item) => /** @type {const} */ ([String(keyOf(item)), item]));
  const kept = new Set(wanted.map(([key]) => key));
  for (const [key, element] of old) if (!kept.has(String(key))) element.remove(); // first: what stays need not move past it
  let place = parent.firstElementChild;
  for (const [key, item] of wanted) {
    let element = old.get(key);
    if (!element) {
      element = typeof made === "function" ? made(item) : document.createElement(made);
      element.dataset.key = key;
    }
    update(/** @type {Made<M>} */ (element), item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
}

/** @param {Element} select @param {Iterable<string>} values @param {(value: string) => unknown} words */
export function options(select, values, words) {
  keyedList(select, values, (value) => value, "option", (option, value) => {
    option.value = value;
    text(option, words(value));
  });
}

/** @param {Element} list @param {string} noun @param {Given} values
 * @param {Given} [given] */
export function facts(list, noun, values, given) {
  list.replaceChildren();
  for (const [name, value] of Object.entries(values)) {
    if (value == null || value === "") continue;
    const definition = create("dd");
    definition.append(value instanceof Node ? value : visible(value));
    list.append(create("dt", t(`${noun}.${name}`, given)), definition);
  }
}

/** Where the user may not, the button says why, and stays in reach of the keyboard.
 * @param {HTMLElement} button @param {Me} user @param {string} permission */
export function permit(button, user, permission) {
  const isPermitted = !moment() && user.permissions.includes(permission);
  const why = () => t(moment() ? "shell.past_only" : "shell.needs", { permission });
  if (!isPermitted) button.setAttribute("aria-describedby", whyNot(/** @type {Element} */ (button.parentElement), why()).id);
  else if (button.ariaDisabled) button.removeAttribute("aria-describedby");
  button.ariaDisabled = isPermitted ? null : "true";
  return isPermitted;
}

let explanations = 0;

/** @param {Element} place @param {string} words */
function whyNot(place, words) {
  const found = [...place.querySelectorAll(".why")].find((why) => why.textContent === words);
  return found ?? place.appendChild(create("span", words, { className: "why small muted", id: `why-${(explanations += 1)}` }));
}

/** @param {Element} place */
export function explain(place) {
  for (const why of all(place, ".why")) why.hidden = !place.querySelector(`[aria-describedby="${why.id}"]:not([hidden])`);
}

globalThis.document?.addEventListener?.("click", (event) => {
  if (!around(event, '[aria-disabled="true"]')) return;
  event.preventDefault();
  event.stopImmediatePropagation();
}, { capture: true });

/** @param {string} message */
export function announce(message) {
  text(one(document, "#announcer", HTMLElement), message);
}

/** Pressed, it copies what `words` are by then, and says so, also to those who do not see it.
 * @param {HTMLButtonElement} button @param {() => string} words */
export function copies(button, words) {
  button.onclick = () => act({ disabled: false }, async () => { // it may be pressed again
    await navigator.clipboard.writeText(words());
    text(button, t("shell.copied"));
    announce(t("shell.copied"));
  });
}

/** Copies `value`; `what` says to those who do not see beside it what that is.
 * @param {string} value @param {string} what */
export function copyButton(value, what = value) {
  const button = create("button", t("shell.copy"), { type: "button", className: "plain small copy", ariaLabel: t("shell.copy_what", { what }) });
  copies(button, () => value);
  return button;
}

/** With `undo` there is a button for that, which closes it, too.
 * @param {string} message @param {string} kind @param {?() => unknown} undo */
export function toast(message, kind = "", undo = null) {
  const { root, text: words, close } = make("toast");
  text(words, message);
  root.classList.toggle("bad", kind === "bad");
  if (undo) close.before(create("button", t("shell.undo"), { onclick: () => (root.remove(), undo()) }));
  const remove = () => root.remove();
  close.onclick = remove;
  one(document, "#toasts", HTMLElement).append(root);
  root.onanimationend = remove; // the style sheet gives the time
}

/** Filters are in the address. What is typed letter by letter makes no history.
 * @template {string} N @param {Record<N, Input>} part @param {string} path @param {readonly N[]} names
 * @param {Context["navigate"]} navigate @param {"oninput" | "onchange"} event */
export function filtersOf(part, path, names, navigate, event = "oninput") {
  /** @type {Params} */
  let filter = {};
  /** @param {Params} more */
  const change = (more) => navigate(link(path, { ...filter, ...more }), { replace: event === "oninput" });
  for (const name of names) part[name][event] = () => change({ [name]: part[name].value.trim() });

  /** @param {Params} next */
  function show(next) {
    filter = next;
    for (const name of names) if (part[name] !== document.activeElement || part[name].type !== "search") part[name].value = next[name] ?? "";
  }
  return { change, show };
}

/** @param {AbortSignal} signal */
export function successive(signal) {
  /** @type {?AbortController} */
  let controller = null;
  return () => {
    controller?.abort();
    controller = new AbortController();
    return AbortSignal.any([signal, controller.signal]);
  };
}

/** Not while the user is asked to sign in: it would be refused, and that recorded, each time.
 * @param {number} ms @param {() => unknown} work @param {AbortSignal} signal */
export function every(ms, work, signal) {
  const timer = setInterval(() => isAsking() || work(), ms);
  signal.addEventListener("abort", () => clearInterval(timer));
}

/** The button stays off then, since what is shown changes.
 * @param {{disabled: boolean}} button @param {() => unknown} work */
export async function act(button, work) {
  button.disabled = true;
  try {
    await work();
  } catch (error) {
    button.disabled = false;
    if (!isAbort(error)) toast(told(error), "bad");
  }
}

/** A problem stands at the head of a place until trying again works; what was never filled is not shown as empty.
 * @param {Element} place @param {() => unknown} fill */
export async function attempt(place, fill) {
  tell(place, "reading");
  try {
    await fill();
    place.querySelector(":scope > .problem")?.remove();
    place.classList.add("filled");
    tell(place, "filled");
  } catch (error) {
    if (isAbort(error)) return;
    problem(place, error, () => attempt(place, fill));
    tell(place, "failed");
  }
}

/** Whoever waits for the page: a place is being read, is there, or is not to be had.
 * @param {Element} place @param {"reading" | "filled" | "failed"} what */
export function tell(place, what) {
  place.dispatchEvent(new Event(what, { bubbles: true }));
}

/** @param {Element} place @param {unknown} error @param {() => unknown} [retry] */
export function problem(place, error, retry) {
  const part = make("problem");
  const { code, requestId, status } = /** @type {Partial<Problem>} */ (error);
  text(part.detail, moment() && status === 404 ? `${told(error)} ${t("shell.past_none")}` : told(error));
  text(part.code, code);
  text(part.id, requestId);
  if (requestId) part.id.after(" ", copyButton(requestId));
  part.retry.hidden = !retry;
  part.retry.onclick = retry ?? null;
  const before = place.querySelector(":scope > .problem");
  const wasFocused = before?.contains(document.activeElement);
  before?.remove();
  place.prepend(part.root);
  if (wasFocused) part.retry.focus();
}
