// A few words for the DOM: templates are cloned and filled with text, never with markup.
import { visible } from "./ansi.js";
import { t, told } from "./i18n.js";
import { link, moment } from "./router.js";

/** A new element with a text, whoever wrote it. */
export const create = (tag, words = "", more = {}) => Object.assign(document.createElement(tag), { textContent: visible(words), ...more });

export const only = (place, tag) => place.firstElementChild ?? place.appendChild(create(tag));

export function translate(root) {
  for (const element of root.querySelectorAll("[data-t]")) element.replaceChildren(...t(element.dataset.t).split("`").map(phrase));
  for (const element of root.querySelectorAll("[data-label]")) {
    element.placeholder = t(element.dataset.label);
    element.setAttribute("aria-label", element.placeholder);
  }
}

const phrase = (words, place) => (place % 2 === 0 ? words : create("code", words));

/** A copy of a template: its elements by their `data-r`. */
export function make(id) {
  const root = document.getElementById(id).content.firstElementChild.cloneNode(true);
  translate(root);
  return refs(root);
}

export function refs(root) {
  const found = { root };
  for (const element of root.querySelectorAll("[data-r]")) found[element.dataset.r] = element;
  return found;
}

/** Show a text, whoever wrote it: what would deceive the eye is marked. */
export function text(element, value) {
  const wanted = visible(value);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** One child of `parent` for each item, `made` by a function or of a tag. Those that are there stay, and so do focus and selection. */
export function keyedList(parent, items, keyOf, made, update) {
  const old = new Map([...parent.children].map((element) => [element.dataset.key, element]));
  const wanted = [...items].map((item) => [String(keyOf(item)), item]);
  const kept = new Set(wanted.map(([key]) => key));
  for (const [key, element] of old) if (!kept.has(key)) element.remove(); // first: what stays need not move past it
  let place = parent.firstElementChild;
  for (const [key, item] of wanted) {
    let element = old.get(key);
    if (!element) {
      element = made.call ? made(item) : create(made);
      element.dataset.key = key;
    }
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
}

export function options(select, values, words) {
  keyedList(select, values, (value) => value, "option", (option, value) => {
    option.value = value;
    text(option, words(value));
  });
}

export function facts(list, noun, values, given) {
  list.replaceChildren();
  for (const [name, value] of Object.entries(values)) {
    if (value == null || value === "") continue;
    const definition = create("dd");
    definition.append(value instanceof Node ? value : visible(value));
    list.append(create("dt", t(`${noun}.${name}`, given)), definition);
  }
}

/** Where the user may not, the button says why, and stays in reach of the keyboard. */
export function permit(button, user, permission) {
  const isPermitted = !moment() && user.permissions.includes(permission);
  const why = () => t(moment() ? "shell.past_only" : "shell.needs", { permission });
  if (!isPermitted) button.setAttribute("aria-describedby", whyNot(button.parentElement, why()).id);
  else if (button.ariaDisabled) button.removeAttribute("aria-describedby");
  button.ariaDisabled = isPermitted ? null : "true";
  return isPermitted;
}

let explanations = 0;

function whyNot(place, words) {
  const found = [...place.querySelectorAll(".why")].find((why) => why.textContent === words);
  return found ?? place.appendChild(create("span", words, { className: "why small muted", id: `why-${(explanations += 1)}` }));
}

export function explain(place) {
  for (const why of place.querySelectorAll(".why")) why.hidden = !place.querySelector(`[aria-describedby="${why.id}"]:not([hidden])`);
}

globalThis.document?.addEventListener?.("click", (event) => {
  if (!event.target.closest?.('[aria-disabled="true"]')) return;
  event.preventDefault();
  event.stopImmediatePropagation();
}, { capture: true });

export function announce(message) {
  text(document.getElementById("announcer"), message);
}

/** With `undo` there is a button for that, which closes it, too. */
export function toast(message, kind = "", undo = null) {
  const { root, text: words, close } = make("toast");
  text(words, message);
  root.classList.toggle("bad", kind === "bad");
  if (undo) close.before(create("button", t("shell.undo"), { onclick: () => (root.remove(), undo()) }));
  close.onclick = () => root.remove();
  document.getElementById("toasts").append(root);
  root.onanimationend = close.onclick; // the style sheet gives the time
}

/** Filters are in the address. What is typed letter by letter makes no history. */
export function filtersOf(part, path, names, navigate, event = "oninput") {
  let filter = {};
  const change = (more) => navigate(link(path, { ...filter, ...more }), { replace: event === "oninput" });
  for (const name of names) part[name][event] = () => change({ [name]: part[name].value.trim() });

  function show(next) {
    filter = next;
    for (const name of names) if (part[name] !== document.activeElement || part[name].type !== "search") part[name].value = next[name] ?? "";
  }
  return { change, show };
}

export function successive(signal) {
  let controller = null;
  return () => {
    controller?.abort();
    controller = new AbortController();
    return AbortSignal.any([signal, controller.signal]);
  };
}

export function every(ms, work, signal) {
  const timer = setInterval(work, ms);
  signal.addEventListener("abort", () => clearInterval(timer));
}

/** The button stays off then, since what is shown changes. */
export async function act(button, work) {
  button.disabled = true;
  try {
    await work();
  } catch (error) {
    button.disabled = false;
    if (error.name !== "AbortError") toast(told(error), "bad");
  }
}

/** A problem stands at the head of a place until trying again works; what was never filled is not shown as empty. */
export async function attempt(place, fill) {
  tell(place, "reading");
  try {
    await fill();
    place.querySelector(":scope > .problem")?.remove();
    place.classList.add("filled");
    tell(place, "filled");
  } catch (error) {
    if (error.name === "AbortError") return;
    problem(place, error, () => attempt(place, fill));
    tell(place, "failed");
  }
}

/** Whoever waits for the page: a place is being read, is there, or is not to be had. */
export function tell(place, what) {
  place.dispatchEvent(new Event(what, { bubbles: true }));
}

export function problem(place, error, retry) {
  const part = make("problem");
  text(part.detail, told(error));
  text(part.code, error.code);
  text(part.id, error.requestId);
  part.retry.hidden = !retry;
  part.retry.onclick = retry;
  const before = place.querySelector(":scope > .problem");
  const wasFocused = before?.contains(document.activeElement);
  before?.remove();
  place.prepend(part.root);
  if (wasFocused) part.retry.focus();
}
