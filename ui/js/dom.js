// The page's own few words for the DOM: templates are cloned and filled with text, never with markup.
import { visible } from "./ansi.js";
import { t, told } from "./i18n.js";

export const create = (tag, properties) => Object.assign(document.createElement(tag), properties);

/** A copy of a template's one element, its fixed words in the user's language. */
export function clone(id) {
  const element = document.getElementById(id).content.firstElementChild.cloneNode(true);
  translate(element);
  return element;
}

export function translate(root) {
  for (const element of root.querySelectorAll("[data-t]")) element.replaceChildren(...t(element.dataset.t).split("`").map(phrase));
}

/** What stands between backquotes is to be typed as it is. */
const phrase = (words, place) => (place % 2 === 0 ? words : create("code", { textContent: words }));

/** The elements of a clone that have a `data-r`, by that name; the clone itself is `root`. */
export function refs(root) {
  const found = { root };
  for (const element of root.querySelectorAll("[data-r]")) found[element.dataset.r] = element;
  return found;
}

export function make(id) {
  return refs(clone(id));
}

/** Show a text, whoever wrote it: what would deceive the eye is marked. */
export function text(element, value) {
  const wanted = visible(value ?? "");
  if (element.textContent !== wanted) element.textContent = wanted;
}

/**
 * Make the children of `parent` be one element for each item, in their order. Elements that are there stay, so that
 * focus and selection do.
 */
export function keyedList(parent, items, keyOf, create, update) {
  const old = new Map([...parent.children].map((element) => [element.dataset.key, element]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let element = old.get(key);
    if (element) old.delete(key);
    else {
      element = create(item);
      element.dataset.key = key;
    }
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const element of old.values()) element.remove();
}

export function facts(list, pairs) {
  list.replaceChildren();
  for (const [name, value] of pairs) {
    if (value === null || value === undefined || value === "") continue;
    const definition = create("dd");
    definition.append(value instanceof Node ? value : visible(value));
    list.append(create("dt", { textContent: name }), definition);
  }
}

/**
 * Whether the user has a permission. Where not, the button that needs it does nothing, and says why: it stays in reach
 * of the keyboard, which a disabled one does not. May be called again, also with another permission.
 */
export function permit(button, user, permission) {
  const isPermitted = user.permissions.includes(permission);
  if (!isPermitted) {
    button.setAttribute("aria-disabled", "true");
    button.setAttribute("aria-describedby", whyNot(button.parentElement, permission).id);
  } else if (button.hasAttribute("aria-disabled")) {
    button.removeAttribute("aria-disabled");
    button.removeAttribute("aria-describedby");
  }
  return isPermitted;
}

let explanations = 0;

function whyNot(place, permission) {
  const found = [...place.querySelectorAll(".why")].find((each) => each.dataset.permission === permission);
  if (found) return found;
  const why = create("span", { className: "why small muted", id: `why-${(explanations += 1)}`, textContent: t("shell.needs", { permission }) });
  why.dataset.permission = permission;
  place.append(why);
  return why;
}

/** Show why buttons of a place are off, as far as they show. */
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

export function toast(message, kind = "") {
  const { root, text: words, close } = make("toast");
  text(words, message);
  root.classList.toggle("bad", kind === "bad");
  close.addEventListener("click", () => root.remove());
  document.getElementById("toasts").append(root);
  let timer = setTimeout(() => root.remove(), 15_000);
  root.addEventListener("pointerenter", () => clearTimeout(timer));
  root.addEventListener("pointerleave", () => (timer = setTimeout(() => root.remove(), 5_000)));
}

/**
 * Do what fills a place. Where that fails, the problem stands at its head until trying again works; what is there
 * already stays and listens on, and what was never filled is not shown as empty.
 */
export async function attempt(place, fill) {
  try {
    await fill();
    place.querySelector(":scope > .problem")?.remove();
    place.classList.add("filled");
  } catch (error) {
    if (error.name !== "AbortError") problem(place, error, () => attempt(place, fill));
  }
}

/** Show what went wrong where it went wrong, with a way to try again. */
export function problem(place, error, retry) {
  const part = make("problem");
  part.title.textContent = t("shell.failed");
  text(part.detail, told(error));
  text(part.code, error.code);
  text(part.id, error.requestId);
  part.retry.hidden = !retry;
  part.retry.addEventListener("click", () => retry?.());
  const before = place.querySelector(":scope > .problem");
  const wasFocused = before?.contains(document.activeElement);
  before?.remove();
  place.prepend(part.root);
  if (wasFocused) part.retry.focus();
}

/**
 * Ask before something that cannot be undone. `yes` and `no` are what the buttons say; `expect`: a number that has to be typed; `needsReason`: a reason, too.
 * Resolves to null, or to `{reason}`.
 */
export function confirmDialog({ title, body, yes, no = t("shell.cancel"), expect = null, needsReason = false }) {
  const part = make("confirm");
  part.title.textContent = title;
  part.body.append(...[body].flat().map(paragraph));
  part.yes.textContent = yes;
  part.no.textContent = no;
  part.numberField.hidden = expect === null;
  part.numberLabel.textContent = t("run.type_number", { n: expect ?? 0 });
  part.reasonField.hidden = !needsReason;
  const check = () => {
    const isCounted = expect === null || part.number.value.trim() === String(expect);
    part.yes.disabled = !isCounted || (needsReason && !part.reason.value.trim());
  };
  return ask(part, check, () => ({}));
}

/** Show a dialog, `check` it at each change, and resolve to what is `chosen` then, with its reason, or to null. */
export function ask({ root, reason }, check, chosen) {
  root.addEventListener("input", check);
  check();
  document.body.append(root);
  root.showModal();
  return new Promise((resolve) => {
    root.addEventListener("close", () => {
      root.remove();
      resolve(root.returnValue === "yes" ? { ...chosen(), reason: reason.value.trim() } : null);
    });
  });
}

const paragraph = (content) => (content instanceof Node ? content : create("p", { textContent: content }));
