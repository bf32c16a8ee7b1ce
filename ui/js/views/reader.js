// One stream of a result: its lines are numbered and can be linked to, searched, copied, and kept as a file.
/** @import {Output, Reading, Styled} from "../app.js" */
import { act, all, around, create, text } from "../dom.js";
import { bytes } from "../format.js";
import { t } from "../i18n.js";
import { MOST_MATCHES, drawn, find, linesOf, marked, seen, textOf } from "../lines.js";
import { pager } from "./pager.js";
import { add } from "./parts.js";

const RANGE_BYTES = 256 * 1024;
const MOST_BYTES = 1024 * 1024; // that are searched
const PAGE_LINES = 300;
const MOST_MARKS = 500; // on the page of lines

/** `read(offset, limit)` gives a range; `hrefOf(n)` the address of a line, `opened(n)` is called when it is followed.
 * @param {Reading} given */
export function reader({ name, read, bytesOf, fileName, hrefOf, opened }) {
  const pages = pager(PAGE_LINES, draw);
  const part = elements(pages.root);
  /** @type {Uint8Array<ArrayBuffer>[]} */
  const kept = []; // ranges of bytes, in order
  /** @type {?Output} */
  let last = null; // the answer that the newest range came with
  /** @type {string[]} */
  let lines = [];
  /** @type {?number} */
  let cut = null; // the number of lines before what was not kept
  let cutText = "";
  /** @type {?string} */
  let whole = null; // all that is seen, once somebody searches or copies
  /** @type {ReturnType<typeof find>} */
  let matches = [];
  let at = -1; // the match that one is at
  let here = 0; // the line that one is at
  let link = 0; // the line that the keyboard is at

  text(part.name, name);
  part.text.classList.toggle("stderr", name === "stderr");

  async function readMore(limit = RANGE_BYTES) {
    last = await read(last?.next_offset ?? 0, limit);
    kept.push(bytesOf(last.data, last.encoding));
  }

  const size = () => kept.reduce((sum, range) => sum + range.length, 0);
  const isWhole = () => last?.next_offset === null;

  async function readAll(most = Infinity) {
    if (isWhole() || size() >= most) return;
    while (!isWhole() && size() < most) await readMore(MOST_BYTES);
    take();
  }

  function take() {
    if (!last) return;
    const data = join(kept, size());
    const [head, tail] = last.truncated ? [data.subarray(0, last.head_bytes), data.subarray(last.head_bytes)] : [data, data.subarray(data.length)];
    const [start, end] = [head, tail].map(textOf);
    const isText = start !== null && end !== null;
    const before = isText ? linesOf(start) : [];
    lines = isText ? before.concat(linesOf(end)) : [];
    cut = isText && last.truncated && data.length >= last.head_bytes ? before.length : null;
    whole = null;
    cutText = t("reader.cut", { missing: bytes(last.size_bytes - last.kept_bytes), size: bytes(last.size_bytes), digest: last.sha256 ?? "–" });
    text(part.size, bytes(last.size_bytes));
    part.binary.hidden = isText;
    for (const control of [part.find, part.wrap, part.copy, part.text]) control.hidden = !isText;
    part.note.hidden = !last.truncated;
    text(part.note, last.truncated && cutText);
    part.rest.hidden = isWhole() || !isText;
    text(part.rest, t("reader.more", { shown: bytes(size()), size: bytes(last.kept_bytes) }));
    draw();
  }

  const cutMark = () => create("span", cutText, { className: "cut" });

  function draw() {
    const { from, to } = pages.of(lines.length);
    const found = Map.groupBy(matches.filter(({ line }) => line >= from && line < to).slice(0, MOST_MARKS), ({ line }) => line);
    if (link < from || link >= to) link = from;
    const shown = drawn(lines, from, to).flatMap((pieces, place) => {
      const line = from + place;
      return [...(line === cut ? [cutMark()] : []), element(pieces, line, found.get(line))];
    });
    if (cut !== null && cut === lines.length && to === lines.length) shown.push(cutMark());
    part.text.replaceChildren(...(lines.length ? shown : []));
  }

  /** @param {Styled[]} pieces @param {number} line @param {typeof matches} [found] */
  function element(pieces, line, found = []) {
    const root = create("span", "", { className: line + 1 === here ? "line here" : "line" });
    const number = create("a", "", { href: hrefOf(line + 1), ariaLabel: t("reader.line", { n: line + 1 }), tabIndex: line === link ? 0 : -1 });
    number.dataset.n = String(line + 1);
    root.append(number, ...marked(pieces, found).map(piece), "\n");
    return root;
  }

  /** @param {ReturnType<typeof marked>[number]} piece */
  function piece({ classes, text: words, match }) {
    if (!match && !classes.length) return words;
    return create(match ? "mark" : "span", words, { className: [...classes, match && match === matches[at] ? "current" : ""].join(" ").trim() });
  }

  async function search() {
    await readAll(MOST_BYTES);
    whole ??= seen(lines);
    matches = find(whole, part.query.value);
    at = matches.length ? Math.max(0, matches.findIndex(({ line }) => line >= link)) : -1;
    showMatch();
  }

  /** @param {number} by */
  function step(by) {
    if (matches.length) at = (at + by + matches.length) % matches.length;
    showMatch();
  }

  function showMatch() {
    const { length } = matches;
    text(part.found, !part.query.value ? "" : length ? t("reader.found", { at: at + 1, n: length === MOST_MATCHES ? `${length}+` : length }) : t("reader.found_none"));
    part.before.hidden = part.after.hidden = !length;
    if (length) pages.goTo(matches[at].line);
    draw();
    part.text.querySelector("mark.current")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** Show a line, which may have to be read first. @param {number} number */
  async function goTo(number) {
    while (number > lines.length && !isWhole()) {
      await readMore(MOST_BYTES);
      take();
    }
    here = number <= lines.length ? number : 0;
    if (!here) return draw();
    link = here - 1;
    pages.goTo(link);
    draw();
    part.text.querySelector(".here")?.scrollIntoView({ block: "center", inline: "nearest" });
  }

  part.query.oninput = () => act({ disabled: false }, search); // one goes on typing
  part.query.onkeydown = (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    step(event.shiftKey ? -1 : 1);
  };
  part.before.onclick = () => step(-1);
  part.after.onclick = () => step(1);
  part.wrap.onclick = () => {
    const isWrapped = part.wrap.ariaPressed !== "true";
    part.wrap.ariaPressed = String(isWrapped);
    part.text.classList.toggle("unwrapped", !isWrapped);
  };
  part.copy.onclick = () => doing(part.copy, async () => {
    await readAll();
    whole ??= seen(lines);
    await navigator.clipboard.writeText(whole);
    text(part.copy, t("shell.copied"));
  });
  part.download.onclick = () => doing(part.download, async () => {
    await readAll();
    const address = URL.createObjectURL(new Blob(kept));
    create("a", "", { href: address, download: fileName }).click();
    setTimeout(() => URL.revokeObjectURL(address), 0);
  });
  part.rest.onclick = () => doing(part.rest, async () => {
    await readMore();
    take();
  });
  part.text.onclick = (event) => {
    const number = around(event, "a[data-n]");
    if (!number || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    opened(Number(number.dataset.n));
  };
  part.text.onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const number = around(event, "a[data-n]");
    if (!step || !number) return;
    event.preventDefault();
    const numbers = [...all(part.text, "a[data-n]")];
    const next = numbers[numbers.indexOf(number) + step];
    if (!next) return;
    number.tabIndex = -1;
    next.tabIndex = 0;
    link = Number(next.dataset.n) - 1;
    next.focus();
  };

  async function load() {
    if (!last) await readMore(); // asked once more, where the other stream could not be read
    take();
  }
  return { root: part.root, load, goTo, isEmpty: () => last?.size_bytes === 0 };
}

/** @param {Element} pages */
function elements(pages) {
  const root = create("section", "", { className: "panel reader" });
  const head = add(root, "header");
  const title = add(head, "h3");
  const name = add(title, "span");
  title.append(" ");
  const row = add(head, "span", "", { className: "row" });
  const find = add(row, "span", "", { className: "row" });
  const part = {
    root,
    name,
    find,
    size: add(title, "span", "", { className: "muted small" }),
    query: add(find, "input", "", { type: "search", placeholder: t("reader.query"), ariaLabel: t("reader.query"), autocomplete: "off", spellcheck: false }),
    found: add(find, "span", "", { className: "muted small", role: "status" }),
    before: add(find, "button", t("reader.before"), { hidden: true }),
    after: add(find, "button", t("reader.after"), { hidden: true }),
    wrap: add(row, "button", t("reader.wrap"), { ariaPressed: "true" }),
    copy: add(row, "button", t("shell.copy")),
    download: add(row, "button", t("reader.download")),
    note: add(root, "p", "", { className: "note muted", hidden: true }),
    binary: add(root, "p", t("reader.binary"), { className: "note muted", hidden: true }),
    text: add(root, "pre", "", { className: "output lines", tabIndex: 0 }),
    rest: add(root, "button", "", { hidden: true }),
  };
  part.text.before(pages);
  return part;
}

/** @param {HTMLButtonElement} button @param {() => Promise<void>} work */
async function doing(button, work) {
  await act(button, work);
  button.disabled = false;
}

/** @param {Uint8Array[]} ranges @param {number} size */
function join(ranges, size) {
  const found = new Uint8Array(size);
  let at = 0;
  for (const range of ranges) {
    found.set(range, at);
    at += range.length;
  }
  return found;
}
