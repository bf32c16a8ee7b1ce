// What the shell says when it is asked: the keys, the connection, how one wants to see things. Loaded when first opened.
import { create, every, facts } from "./dom.js";
import { clock, duration } from "./format.js";
import { language, t } from "./i18n.js";
import { choices, preference, prefer } from "./preferences.js";
import * as stream from "./stream.js";

const KEYS = [
  ["/", "search"],
  ["g f, g r, g t, g a, g c, g s", "pages"],
  ["j k ↓ ↑", "rows"],
  ["Enter", "open"],
  ["x", "select"],
  ["Ctrl Enter", "run"],
  ["[ ]", "steps"],
  ["Esc", "close"],
  ["?", "help"],
];

/** A dialog that is only closed; `actions` are its further buttons.
 * @param {string} title @param {Node} content @param {Node[]} actions */
function panel(title, content, actions = []) {
  const opened = new AbortController();
  const dialog = Object.assign(create("dialog", "", { ariaLabel: title }), { closedBy: "any" });
  const close = create("button", t("shell.close"), { autofocus: true, onclick: () => dialog.close() });
  const row = create("div", "", { className: "actions" });
  row.append(...actions, close);
  const body = create("div", "", { className: "stack" });
  body.append(create("h2", title), content, row);
  dialog.append(body);
  dialog.onclose = () => {
    opened.abort();
    dialog.remove();
  };
  document.body.append(dialog);
  dialog.showModal();
  return { close: () => dialog.close(), signal: opened.signal };
}

export function help() {
  const list = create("dl", "", { className: "facts" });
  for (const [keys, name] of KEYS) {
    const term = create("dt");
    for (const key of keys.split(" ")) term.append(create("kbd", key.replace(",", "")), key.endsWith(",") ? ", " : " ");
    list.append(term, create("dd", t(`keys.${name}`)));
  }
  panel(t("keys.title"), list);
}

/** How live the page is; and a new connection, which is made at once. */
export function connection() {
  const list = create("dl", "", { className: "facts" });
  const connect = create("button", t("pill.connect"), { className: "primary" });
  const opened = panel(t("pill.title"), list, [connect]);

  function draw() {
    const { kind, n, since } = stream.liveness(stream.state, Date.now());
    const { heads, lag, build: found } = stream.state.ping ?? {};
    facts(list, "pill", {
      state: t(`shell.stream_${kind}`, { n, time: since && clock(since, language) }),
      position: heads?.event.toLocaleString(language),
      time: clock(stream.now(), language),
      lag: lag && duration(lag.seconds * 1000),
      build: found,
    });
  }
  connect.onclick = () => {
    stream.connect();
    opened.close();
  };
  every(1000, draw, opened.signal);
  draw();
}

export function preferences() {
  const fields = create("div", "", { className: "stack" });
  for (const [name, values] of Object.entries(choices())) {
    const label = create("label", "", { className: "field" });
    const select = create("select", "", { name });
    for (const [value, words] of Object.entries(values)) select.append(create("option", words, { value }));
    select.value = preference(name);
    select.onchange = () => prefer(name, select.value);
    label.append(create("span", t(`preferences.${name}`)), select);
    fields.append(label);
  }
  panel(t("preferences.title"), fields);
}
