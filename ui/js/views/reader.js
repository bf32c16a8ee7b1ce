// One stream of a result: its lines are numbered and can be linked to, searched, copied, and kept as a file.
import { act, create, text } from "../dom.js";
import { bytes } from "../format.js";
import { t } from "../i18n.js";
import { MOST_MATCHES, drawn, find, linesOf, marked, seen, textOf } from "../lines.js";
import { pager } from "./pager.js";
import { parts } from "./parts.js";

const RANGE_BYTES = 256 * 1024;
const MOST_BYTES = 1024 * 1024; // that are searched
const PAGE_LINES = 300;
const MOST_MARKS = 500; // on the page of lines

/** `read(offset, limit)` gives a range; `hrefOf(n)` the address of a line, `opened(n)` is called when it is followed. */
export function reader({ name, read, bytesOf, fileName, hrefOf, opened }) {
  const pages = pager(PAGE_LINES, draw);
  const part = elements(pages.root);
  const kept = []; // ranges of bytes, in order
  let last = null; // the answer that the newest range came with
  let lines = [];
  let cut = null; // the number of lines before what was not kept
  let whole = null; // all that is seen, once somebody searches or copies
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
    const data = join(kept, size());
    const [head, tail] = last.truncated ? [data.subarray(0, last.head_bytes), data.subarray(last.head_bytes)] : [data, data.subarray(data.length)];
    const [start, end] = [head, tail].map(textOf);
    const isText = start !== null && end !== null;
    lines = isText ? linesOf(start) : [];
    cut = isText && last.truncated && data.length >= last.head_bytes ? lines.length : null;
    if (isText) lines = lines.concat(linesOf(end));
    whole = null;
    text(part.size, bytes(last.size_bytes));
    part.binary.hidden = isText;
    for (const control of [part.find, part.wrap, part.copy, part.text]) control.hidden = !isText;
    part.note.hidden = !last.truncated;
    text(part.note, last.truncated && cutText());
    part.rest.hidden = isWhole() || !isText;
    text(part.rest, t("reader.more", { shown: bytes(size()), size: bytes(last.kept_bytes) }));
    draw();
  }

  const cutText = () => t("reader.cut", { missing: bytes(last.size_bytes - last.kept_bytes), size: bytes(last.size_bytes), digest: last.sha256 ?? "–" });

  const cutMark = () => create("span", cutText(), { className: "cut" });

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

  function element(pieces, line, found = []) {
    const root = create("span", "", { className: line + 1 === here ? "line here" : "line" });
    const number = create("a", "", { href: hrefOf(line + 1), ariaLabel: t("reader.line", { n: line + 1 }), tabIndex: line === link ? 0 : -1 });
    number.dataset.n = line + 1;
    root.append(number, ...marked(pieces, found).map(piece), "\n");
    return root;
  }

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

  /** Show a line, which may have to be read first. */
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
    part.text.querySelector(".here").scrollIntoView({ block: "center", inline: "nearest" });
  }

  part.query.oninput = () => act({}, search); // one goes on typing
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
    const number = event.target.closest("a[data-n]");
    if (!number || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    opened(Number(number.dataset.n));
  };
  part.text.onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !event.target.matches("a[data-n]")) return;
    event.preventDefault();
    const numbers = [...part.text.querySelectorAll("a[data-n]")];
    const next = numbers[numbers.indexOf(event.target) + step];
    if (!next) return;
    event.target.tabIndex = -1;
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

function elements(pages) {
  const { part, add } = parts(create("section", "", { className: "panel reader" }));
  const head = add(part.root, "header", "head");
  const title = add(head, "h3", "title");
  add(title, "span", "name");
  title.append(" ");
  add(title, "span", "size", "", { className: "muted small" });
  const row = add(head, "span", "row", "", { className: "row" });
  const found = add(row, "span", "find", "", { className: "row" });
  add(found, "input", "query", "", { type: "search", placeholder: t("reader.query"), ariaLabel: t("reader.query"), autocomplete: "off", spellcheck: false });
  add(found, "span", "found", "", { className: "muted small", role: "status" });
  add(found, "button", "before", t("reader.before"), { hidden: true });
  add(found, "button", "after", t("reader.after"), { hidden: true });
  add(row, "button", "wrap", t("reader.wrap"), { ariaPressed: "true" });
  add(row, "button", "copy", t("shell.copy"));
  add(row, "button", "download", t("reader.download"));
  for (const [name, words] of [["note", ""], ["binary", t("reader.binary")]]) add(part.root, "p", name, words, { className: "note muted", hidden: true });
  part.root.append(pages);
  add(part.root, "pre", "text", "", { className: "output lines", tabIndex: 0 });
  add(part.root, "button", "rest", "", { hidden: true });
  return part;
}

async function doing(button, work) {
  await act(button, work);
  button.disabled = false;
}

function join(ranges, size) {
  const found = new Uint8Array(size);
  let at = 0;
  for (const range of ranges) {
    found.set(range, at);
    at += range.length;
  }
  return found;
}
