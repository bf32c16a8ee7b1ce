// Small things that every page shows: a state, a time, a bar, text of a host.
import { pieces, visible } from "./ansi.js";
import { clone, confirmDialog, create, refs, text } from "./dom.js";
import { absolute, percent, relative } from "./format.js";
import { fold } from "./hostlist.js";
import { because, language, t } from "./i18n.js";
import { segments, stateOf } from "./states.js";
import { now } from "./stream.js";

export const FIRST_HOSTS = 50; // that are named, of however many

/** A state as shape and word; `word` replaces the table's. */
export function badge(place, kind, state, word) {
  const found = stateOf(kind, state);
  let element = place.firstElementChild;
  if (!element) {
    element = clone("badge");
    place.append(element);
  }
  element.className = `badge role-${found.role}`;
  element.querySelector("use").setAttribute("href", `#s-${found.shape}`);
  text(refs(element).word, word ?? t(found.word));
}

/** Whether commands are kept from a host, beside its state. */
export function markQuarantine(place, host) {
  place.title = visible(because(host.quarantine?.reason ?? ""));
  if (host.quarantine) badge(place, "mark", "quarantined");
  else place.replaceChildren();
}

/** A time as people say it; the exact one is the tooltip. All of them go on by one clock. */
export function time(place, value) {
  let element = place.querySelector("time");
  if (!value) return place.replaceChildren();
  if (!element) {
    element = create("time");
    place.replaceChildren(element);
  }
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

export function meter(place, fraction) {
  if (fraction === null || fraction === undefined) return place.replaceChildren();
  if (!place.firstElementChild) place.append(clone("meter"));
  const part = refs(place);
  part.fill.style.setProperty("--share", percent(fraction).replace(" ", ""));
  text(part.text, percent(fraction));
}

export function bar(place, counts) {
  place.replaceChildren(
    ...segments(counts).map(([role, count]) => {
      const segment = create("span", { className: `role-${role}` });
      segment.style.setProperty("--share", count);
      return segment;
    }),
  );
}

/** What a host wrote: colours, and marks for what would deceive; never markup. */
export function output(source, isError) {
  const element = create("pre", { className: isError ? "output err" : "output", tabIndex: 0 });
  for (const { classes, text: textContent } of pieces(source)) {
    element.append(classes.length ? create("span", { className: classes.join(" "), textContent }) : textContent);
  }
  return element;
}

export function empty(place, message, href, action) {
  place.hidden = false;
  place.replaceChildren(message);
  if (!href) return;
  place.append(create("br"), create("a", { className: "button", href, textContent: action }));
}

/**
 * Ask as much as the guard of a command wants before it is sent: `body` with what was answered, null where the user would rather not. `more` are paragraphs that say what else matters.
 */
export async function confirmRun(preview, body, more = []) {
  const { level } = preview.guard;
  if (level < 2) return body;
  const answer = await confirmDialog({
    title: t("run.confirm", { n: preview.count }),
    body: [output(body.command, false), fold(preview.hosts.slice(0, FIRST_HOSTS)), visible(t("run.confirm_user", { user: body.user })), ...more],
    yes: t("run.submit", { n: preview.count }),
    expect: level >= 3 ? preview.count : null,
    needsReason: level >= 3 && !body.reason,
  });
  return answer && { ...body, ...(answer.reason && { reason: answer.reason }) };
}
