// What every page shows: a state, a time, a bar, text of a host, a form.
import { exactly, pieces } from "./ansi.js";
import { announce, create, keyedList, make, only, options, refs, text } from "./dom.js";
import { absolute, fold, percent, relative } from "./format.js";
import { language, t, told } from "./i18n.js";
import { hostPath } from "./router.js";
import { segments, stateOf } from "./states.js";
import { now } from "./stream.js";

export const FIRST_HOSTS = 50; // that are named

export function badge(place, kind, state, word) {
  const found = stateOf(kind, state);
  if (!place.firstElementChild) place.append(make("badge").root);
  const element = place.firstElementChild;
  element.className = `badge role-${found.role}`;
  element.querySelector("use").setAttribute("href", `#s-${found.shape}`);
  text(refs(element).word, word ?? t(found.word));
}

export function time(place, value) {
  if (!value) return place.replaceChildren();
  const element = only(place, "time");
  if (element.dateTime !== value) {
    element.dateTime = value;
    element.title = absolute(value, language);
  }
  text(element, relative(value, now(), language));
}

export function timeNode(value) {
  const place = create("span");
  time(place, value);
  return place;
}

setInterval(() => {
  for (const element of document.querySelectorAll("time")) text(element, relative(element.dateTime, now(), language));
}, 1000);

export function anchor(place, href, words) {
  const element = only(place, "a");
  element.href = href;
  text(element, words);
  return element;
}

export function meter(place, fraction) {
  if (fraction == null) return place.replaceChildren();
  if (!place.firstElementChild) place.append(create("span", "", { className: "meter" }), create("span"));
  const [bar, words] = place.children;
  only(bar, "span").style.setProperty("--share", percent(fraction).replace(" ", ""));
  text(words, percent(fraction));
}

/** Copies `value`; `what` says to those who do not see beside it what that is. */
export function copyButton(value, what = value) {
  const button = create("button", t("shell.copy"), { type: "button", className: "plain small copy", ariaLabel: t("shell.copy_what", { what }) });
  button.onclick = async () => {
    await navigator.clipboard.writeText(value);
    text(button, t("shell.copied"));
    announce(t("shell.copied"));
  };
  return button;
}

// How a column shows its values, where it is no state.
const AS = { time, meter, percent: (_, value) => percent(value), host: (cell, name) => anchor(cell, hostPath(name), name) };

/** The heads of a table say what a column shows; or `shows` gives a text, or fills the cell. */
export function rowsOf(root, key, shows = {}) {
  const heads = [...root.rows[0].cells];
  const body = root.createTBody();

  function createRow() {
    const row = create("tr");
    for (const { className, textContent } of heads) Object.assign(row.insertCell(), { className }).dataset.head = textContent;
    return row;
  }

  function show(item, cell, { of, as, kind }) {
    if (kind) return badge(cell, kind, item[of]);
    return shows[of] ? shows[of](item, cell) : as ? AS[as](cell, item[of]) : (item[of] ?? "");
  }

  function fill(row, item) {
    for (const [place, { dataset }] of heads.entries()) {
      const shown = show(item, row.cells[place], dataset);
      if (shown !== undefined && !(shown instanceof Node)) text(row.cells[place], shown);
    }
  }
  return { body, createRow, fill, draw: (items) => keyedList(body, items, (item) => item[key], createRow, fill) };
}

export function bar(place, counts, kind) {
  place.replaceChildren(
    ...segments(counts, kind).map(([role, count]) => {
      const segment = create("span", "", { className: `role-${role}` });
      segment.style.setProperty("--share", count);
      return segment;
    }),
  );
}

export const output = (source, stream = "") => pre(pieces(source), stream);

export const said = (source) => pre(exactly(source), "exact");

function pre(parts, kind) {
  const element = create("pre", "", { className: `output ${kind}`, tabIndex: 0 });
  for (const { classes, text: shown } of parts) {
    element.append(classes.length ? create("span", shown, { className: classes.join(" ") }) : shown);
  }
  return element;
}

export function empty(place, message, href, action) {
  place.hidden = false;
  place.replaceChildren(message);
  if (href) place.append(create("br"), create("a", action, { className: "button", href }));
}

/** A field; what is not named here are properties of its input. Types of ours are in READERS. */
export function field({ name, label, type = "text", value, choices, offers, ...more }) {
  const tag = choices ? "select" : ["lines", "json"].includes(type) ? "textarea" : "input";
  const input = create(tag, "", { name, autocomplete: "off", spellcheck: false });
  if (tag === "input") input.type = type; // one that it does not know is a text
  if (input.type === "text" && more.required) input.pattern = String.raw`.*\S.*`;
  Object.assign(input, more);
  if (choices) options(input, choices, (choice) => choice);
  input.value = value || input.value;
  const root = create("label", "", { className: "field" });
  root.append(label instanceof Node ? label : create("span", label), input);
  if (offers) {
    options(root.appendChild(create("datalist", "", { id: `offers-${name}` })), offers, () => "");
    input.setAttribute("list", `offers-${name}`);
  }
  return root;
}

const READERS = { number: Number, checkbox: Boolean, list: namesOf, lines: (typed) => typed.split("\n").filter(Boolean), json: JSON.parse, amount: amountOf, canary };

export function namesOf(typed) {
  return typed.split(/[\s,]+/).filter(Boolean);
}

/** What is no number stays as it is, as "10%". */
export function amountOf(typed) {
  return /^\d+$/.test(typed) ? Number(typed) : typed;
}

/** How many hosts, or which. */
function canary(typed) {
  return typeof amountOf(typed) === "number" ? Number(typed) : namesOf(typed);
}

/** What the fields of a form say, without those that are empty; "a.b" is `b` of `a`. */
export function valuesOf(fields, form) {
  const found = {};
  for (const { name, type, multiple } of fields) {
    const input = form.elements[name];
    const chosen = multiple && [...input.selectedOptions].map((option) => option.value);
    const value = chosen || (type === "checkbox" ? input.checked && "true" : type === "password" ? input.value : input.value.trim());
    if (!value.length) continue;
    const [inner, outer] = name.split(".").reverse();
    (outer ? (found[outer] ??= {}) : found)[inner] = READERS[type]?.(value) ?? value;
  }
  return found;
}

/** Ask in a dialog; resolves to what its fields say, or to null. With `submit` it stays until that has worked. */
export function ask({ words, given, title = t(words, given), body = t(`${words}_what`, given), fields = [], yes = t(words, given), no = t("shell.cancel"), check = () => {}, submit = null }) {
  const part = make("ask");
  text(part.title, title);
  part.body.append(...[body].flat().map(paragraph), ...fields.map(field));
  text(part.yes, yes);
  text(part.no, no);
  part.root.oninput = () => {
    part.yes.disabled = !part.form.checkValidity();
    check(part.yes, valuesOf(fields, part.form));
  };
  part.root.oninput();
  part.form.onsubmit = async (event) => {
    if (event.submitter !== part.yes || !submit) return;
    event.preventDefault();
    part.yes.disabled = true;
    try {
      await submit(valuesOf(fields, part.form), part.waits);
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
      resolve(part.root.returnValue === "yes" ? valuesOf(fields, part.form) : null);
    };
  });
}

function paragraph(content) {
  if (content instanceof Node) return content;
  const element = create("p");
  text(element, content);
  return element;
}

export const reasonField = (required) => ({ name: "reason", label: t(required ? "run.reason_needed" : "run.reason"), maxLength: 256, required });

/** Ask as much as the guard or an approval wants; resolves to `body` with the answers, or to null. */
export async function confirmRun(preview, body, more = [], { command, user } = body, isApproval = false) {
  const { count: n, guard: { level } } = preview;
  if (level < 2 && !isApproval) return body;
  const number = { name: "number", label: t("run.type_number", { n }), inputMode: "numeric", required: true, pattern: String.raw`\s*${n}\s*` };
  const answer = await ask({
    title: t(isApproval ? "run.ask_title" : "run.confirm", { n }),
    body: [said(command), fold(preview.hosts.slice(0, FIRST_HOSTS)), t("run.confirm_user", { user }), ...more],
    yes: t(isApproval ? "run.ask" : "run.submit", { n }),
    fields: isApproval ? [{ ...reasonField(true), value: body.reason, autofocus: true }] : level < 3 ? [] : [number, ...(body.reason ? [] : [reasonField(true)])],
  });
  return answer && { ...body, ...(answer.reason && { reason: answer.reason }) };
}
