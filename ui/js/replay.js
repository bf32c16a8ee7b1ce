// The past: which moment is shown, and the way to others. Loaded where an address has one, or when one is looked for.
/** @import {AuditEvent, Context, Moment} from "./app.js" */
import { requests } from "./api.js";
import { announce, create, text } from "./dom.js";
import { absolute, fromField, toField } from "./format.js";
import { language, t, told } from "./i18n.js";
import { atMoment } from "./router.js";
import { now, showMoment } from "./stream.js";

const READ_MS = 250; // playing reads no more often
const MINUTE_MS = 60_000;
const HOUR_MS = 3_600_000;
const MOST_WAITING = 5;
const SPEEDS = [1, 10, 100]; // events at a time
const WIDE = "(min-width: 641px)";
const FIELDS = /** @type {const} */ (["time", "position"]);
const IS_TIME = /^\d{4}-/; // else it is a position

/** The position and the time of a moment, as far as this user may see them; `first`: the oldest event, where all came later.
 * @param {Context} context @param {string} at */
async function resolve({ api, user }, at) {
  const mayRead = user.permissions.includes("events.read");
  const { items, as_of: asOf } = await api.get(mayRead ? "/events" : "/hosts", { at, limit: 1 });
  const position = Number(/\d+/.exec(asOf)?.[0]);
  const [first] = mayRead && !items.length ? (await api.get("/events", { at: null, after: 0, limit: 1 })).items : [];
  const [newest] = items;
  return { at, position, time: IS_TIME.test(at) ? at : newest && "recorded_at" in newest ? newest.recorded_at : null, first };
}

/** Two fields for a moment. `go` takes it, or refuses it in words that then stand at the field.
 * @param {(at: string) => Promise<unknown>} go */
function momentForm(go) {
  const form = create("form", "", { className: "row moment", noValidate: true });
  const fields = {
    time: create("input", "", { type: "datetime-local", step: "1", name: "time", required: true }),
    position: create("input", "", { name: "position", inputMode: "numeric", size: 12, autocomplete: "off", required: true }),
  };
  /** @type {Record<string, HTMLElement>} */
  const errors = {};
  /** Which of them counts. @type {keyof typeof fields} */
  let changed = "time";
  let isTyped = false;

  for (const name of FIELDS) {
    const input = fields[name];
    const label = create("label", "", { className: "field" });
    errors[name] = create("span", "", { className: "field-error", role: "alert", id: `moment-${name}-error` });
    label.append(create("span", t(`replay.${name}`)), input);
    const place = create("div", "", { className: "stack" });
    place.append(label, errors[name]);
    form.append(place);
    input.oninput = () => {
      changed = name;
      isTyped = true;
    };
  }
  form.append(create("button", t("replay.go")));

  /** @param {?keyof typeof fields} name @param {string} words */
  function refuse(name, words = "") {
    if (name && form.parentElement instanceof HTMLDetailsElement) form.parentElement.open = true;
    for (const [each, input] of Object.entries(fields)) {
      const isRefused = each === name;
      text(errors[each], isRefused ? words : "");
      input.ariaInvalid = isRefused ? "true" : null;
      if (isRefused) input.setAttribute("aria-describedby", errors[each].id);
      else input.removeAttribute("aria-describedby");
    }
  }

  form.onsubmit = async (event) => {
    event.preventDefault();
    const name = changed;
    const { value: typed, validity, validationMessage } = fields[name];
    if (!validity.valid) return refuse(name, validationMessage);
    try {
      await go(name === "time" ? fromField(typed) : typed.replace(/[\s,]/g, ""));
      refuse(null);
      isTyped = false;
    } catch (error) {
      refuse(name, told(error));
    }
  };

  return {
    root: form,
    refuse,
    /** @param {string} at @param {{time?: string | number | null, position?: string | number}} moment */
    fill(at, { time, position = IS_TIME.test(at) ? "" : at }) {
      refuse(null);
      const values = { time: toField(time), position: String(position) };
      for (const name of FIELDS) {
        if (!isTyped || fields[name] !== document.activeElement) fields[name].value = values[name];
      }
    },
  };
}

/** Ask for a moment, and show this page as of then. @param {Context} context */
export function askForMoment(context) {
  const dialog = create("dialog", "", { ariaLabel: t("replay.look") });
  const form = momentForm(async (at) => {
    await resolve(context, at);
    location.assign(atMoment(at));
  });
  const body = create("div", "", { className: "stack" });
  const actions = create("div", "", { className: "actions" });
  actions.append(create("button", t("shell.cancel"), { onclick: () => dialog.close() }));
  body.append(create("h2", t("replay.look")), create("p", t("replay.look_what")), form.root, actions);
  dialog.append(body);
  dialog.onclose = () => dialog.remove();
  document.body.append(dialog);
  form.fill("", { time: now(), position: "" });
  dialog.showModal();
}

/** The bar over each page of the past. `show` tells it which moment the page is to be of.
 * @param {HTMLElement} place @param {Context} context */
export function mount(place, context) {
  const { api, navigate, user } = context;
  const mayRead = user.permissions.includes("events.read");
  /** @type {Partial<Moment>} */
  let shown = {};
  let waiting = 0; // steps that are asked for and not taken yet
  /** @type {Promise<unknown>} */
  let last = Promise.resolve();
  /** Ends it. @type {?AbortController} */
  let playing = null;

  const words = create("strong", "", { role: "status" });
  const speed = create("select", "", { ariaLabel: t("replay.speed"), title: t("replay.speed") });
  for (const n of SPEEDS) speed.append(create("option", t("replay.events", { n }), { value: `${n}` }));
  const play = button("", () => (playing ? stop() : start()));
  const form = momentForm(async (at) => {
    stop();
    await go(await resolve(context, at));
  });

  /** @param {string} label @param {() => unknown} onclick @param {Partial<HTMLButtonElement>} more */
  function button(label, onclick, more = {}) {
    return create("button", label, { type: "button", onclick, ...more });
  }

  const moves = {
    hour_back: () => shifted(-HOUR_MS),
    minute_back: () => shifted(-MINUTE_MS),
    event_back: back,
    event_on: () => on(1),
    minute_on: () => shifted(MINUTE_MS),
    hour_on: () => shifted(HOUR_MS),
  };
  const steps = create("div", "", { className: "actions", role: "group", ariaLabel: t("replay.steps") });
  const buttons = Object.entries(moves).map(([name, find]) => {
    const label = t(`replay.${name}`);
    return button(t(`replay.${name}_short`), () => move(find), { title: label, ariaLabel: label });
  });
  steps.append(...buttons.slice(0, 3), play, ...buttons.slice(3), speed);
  const other = create("details", "", { open: matchMedia(WIDE).matches });
  other.append(create("summary", t("replay.other")), form.root);
  place.append(words, button(t("replay.leave"), () => location.assign(atMoment(null)), { className: "primary" }), steps, other);
  place.hidden = false;
  drawPlay();
  document.addEventListener("visibilitychange", () => document.hidden && stop());

  /** @param {number} ms */
  const shifted = (ms) => resolve(context, new Date(Date.parse(shown.time ?? shown.first?.recorded_at ?? Date()) + ms).toISOString());

  /** The moment so many events later; null: nothing has happened since. @param {number} n */
  async function on(n) {
    if (!mayRead) return resolve(context, String(Number(shown.position) + n));
    const last = (await api.get("/events", { at: null, after: shown.position, limit: n })).items.at(-1);
    return last ? momentOf(last) : null;
  }

  /** The moment before the newest event that is shown. */
  async function back() {
    if (!mayRead) return resolve(context, String(Number(shown.position) - 1));
    const [, before] = (await api.get("/events", { at: shown.at, limit: 2 })).items;
    return before ? momentOf(before) : null;
  }

  /** @param {AuditEvent} event @returns {Moment} */
  const momentOf = ({ seq, recorded_at: time }) => ({ at: String(seq), position: seq, time });

  /** One after the other, since each begins where the one before has led; a key that is held down asks for more than can be.
   * @param {() => Promise<?Moment>} find */
  function move(find) {
    stop();
    if (waiting >= MOST_WAITING) return;
    waiting += 1;
    last = last.then(() => step(find)).finally(() => (waiting -= 1));
  }

  /** @param {() => Promise<?Moment>} find */
  async function step(find) {
    if (shown.position === undefined) return;
    try {
      const found = await find();
      if (found) await go(found);
      else tell(t(find === back ? "replay.is_oldest" : "replay.is_newest"));
    } catch (error) {
      form.refuse("time", told(error));
    }
  }

  /** @param {Moment} moment */
  async function go(moment) {
    take(moment);
    await navigate(atMoment(moment.at), { replace: true });
  }

  async function start() {
    playing = new AbortController();
    drawPlay();
    const { signal } = playing;
    try {
      while (!signal.aborted) {
        const [before, began] = [requests, performance.now()];
        const found = await on(Number(speed.value));
        if (signal.aborted) return;
        if (!found) {
          stop();
          return tell(t("replay.is_newest"));
        }
        await go(found);
        const rest = (requests - before) * READ_MS - (performance.now() - began);
        await new Promise((resolve) => setTimeout(resolve, Math.max(0, rest)));
      }
    } catch (error) {
      stop();
      form.refuse("time", told(error));
    }
  }

  function stop() {
    playing?.abort();
    playing = null;
    drawPlay();
  }

  function drawPlay() {
    text(play, t(playing ? "replay.pause" : "replay.play"));
    words.ariaLive = playing ? "off" : "polite"; // which would be told four times a second
  }

  function tell(more = "") {
    const { time, position = NaN, first } = shown;
    const said = first
      ? t("replay.before", { time: absolute(first.recorded_at, language), position: first.seq.toLocaleString(language) })
      : t(time ? "replay.as_of" : "replay.as_of_position", { time: time && absolute(time, language), position: position.toLocaleString(language) });
    text(words, [said, more].filter(Boolean).join(" "));
  }

  /** @param {Moment} moment */
  function take(moment) {
    shown = moment;
    showMoment(moment.time ? Date.parse(moment.time) : null);
    form.fill(moment.at, moment);
    tell();
  }

  /** Resolves when it is known what a moment is; a page that it is not known of is shown all the same.
   * @param {?string} wanted */
  async function show(wanted) {
    if (wanted === null || wanted === shown.at) return;
    stop();
    try {
      take(await resolve(context, wanted));
    } catch (error) {
      shown = { at: wanted };
      form.fill(wanted, {});
      form.refuse(IS_TIME.test(wanted) ? "time" : "position", told(error));
      text(words, t("replay.unknown"));
    }
  }

  return { show, keys: { "[": () => move(back), "]": () => move(moves.event_on) } };
}
