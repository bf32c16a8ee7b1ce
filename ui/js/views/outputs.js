// Equal outputs of a task together, the rarest answer before the majority's.
import { settled } from "../ansi.js";
import { badge, output } from "../components.js";
import { diff } from "../diff.js";
import { act, attempt, create, keyedList, make, options, refs, text } from "../dom.js";
import { bytes, fold } from "../format.js";
import { t } from "../i18n.js";
import { byAttention, isAtWork, isOpen, toWatch } from "../states.js";

const OUTPUTS_MS = 1000; // at most this often while results come in
const RANGE_BYTES = 1024 * 1024;
const LINE_PX = 24;
const MOST_REASONS = 20;
const MOST_LIVE = 20; // topics of a stream
const LOOK_MS = 2000; // until other hosts take the place of those that have ended
const LIVE_CHARACTERS = 16_384; // of a stream
const STREAMS = ["stdout", "stderr"];
const HAVE_RUN = ["succeeded", "failed", "timed_out", "interrupted"];

export function outputCards(place, url, { api, signal, stream: { bytesOf } }, { rowOf, reasonText, printedBy }) {
  let groups = [];
  let isStale = false;
  let isReading = false;

  async function changed() {
    isStale = true;
    if (isReading) return;
    isReading = true;
    while (isStale && !signal.aborted) {
      isStale = false; // before the read: what changes during it is read once more
      await attempt(place, read);
      await new Promise((resolve) => setTimeout(resolve, OUTPUTS_MS));
    }
    isReading = false;
  }

  async function read() {
    ({ groups } = await api.get(`${url}/outputs`));
    groups.forEach(decode);
    draw();
  }

  function draw() {
    groups.sort((a, b) => byAttention(a, b) || a.count - b.count);
    keyedList(place, groups, keyOf, createCard, updateCard);
  }

  function decode(group) {
    Object.assign(group, { bytes: {}, binary: {} });
    for (const stream of STREAMS) {
      if (group[stream] === null) continue;
      const data = bytesOf(group[stream], group.encoding);
      group.bytes[stream] = data.length;
      group[stream] = textOf(data) ?? "";
      group.binary[stream] = data.length > 0 && !group[stream];
    }
  }

  function createCard(group) {
    const card = make("output-card");
    card.text.replaceChildren(...texts(card, group));
    card.diff.onclick = () => toggleDiff(card, groups.find((one) => keyOf(one) === keyOf(group)));
    return card.root;
  }

  function updateCard(element, group) {
    const card = refs(element);
    const word = t(`state.execution.${group.state}`);
    badge(card.state, "execution", group.state, group.exit_code ? t("task.exit_code", { word, code: group.exit_code }) : word);
    text(card.hosts, fold(group.hosts));
    text(card.note, t("task.on_hosts", { n: group.count }));
    keyedList(card.reasons, reasons(group), (reason) => reason, paragraph, text);
    if (isOpen(group.state)) card.text.replaceChildren(...nothing(group));
    const other = majority();
    card.diff.hidden = !isReadable(group) || !other || keyOf(other) === keyOf(group);
  }

  function reasons({ hosts }) {
    const byReason = Map.groupBy(hosts, (hostname) => reasonText(rowOf(hostname)));
    byReason.delete("");
    const found = [...byReason].slice(0, MOST_REASONS);
    const lines = found.map(([reason, names]) => (names.length === hosts.length ? reason : `${fold(names)}: ${reason}`));
    return byReason.size > MOST_REASONS ? [...lines, "…"] : lines;
  }

  /** To compare others with. */
  function majority() {
    return groups.filter(isReadable).reduce((most, group) => (group.count > (most?.count ?? 1) ? group : most), null);
  }

  function toggleDiff(card, group) {
    const isPressed = card.diff.ariaPressed !== "true";
    card.diff.ariaPressed = String(isPressed);
    card.text.replaceChildren(...(isPressed ? differences(majority(), group) : texts(card, group)));
  }

  function differences(other, group) {
    const found = STREAMS.filter((stream) => other[stream] !== group[stream]).map((stream) => {
      const marked = diff(settled(other[stream]), settled(group[stream])).map(({ mark, line }) => `${mark} ${line}`);
      return output(marked.join("\n"), stream);
    });
    return [note(t("task.diff_of", { hosts: fold(other.hosts) })), ...(found.length ? found : [note(t("task.diff_none"))])];
  }

  function texts(card, group) {
    if (group.stdout_sha256 && group.stdout === null) return [more(card, group)];
    const found = STREAMS.filter((stream) => group.bytes[stream]).flatMap((stream) => {
      const [shown, size] = [group.bytes[stream], rowOf(group.hosts[0])[`${stream}_bytes`]];
      if (group.binary[stream]) return [note(t("task.binary", { size: `${stream}, ${bytes(size ?? shown)}` }))];
      const isCut = size === undefined ? group.truncated : size > shown;
      const end = isCut ? [more(card, group, t("task.part", { shown: bytes(shown), size: bytes(size) || "…" }))] : [];
      return [output(group[stream], stream), ...end];
    });
    return found.length ? found : nothing(group);
  }

  function more(card, group, words = "") {
    const element = note(words);
    const button = create("button", t("task.whole"), { onclick: () => act(button, () => showWhole(card, group)) });
    element.append(" ", button);
    return element;
  }

  /** Nothing is said where there could be none: the reason says more. */
  function nothing({ state, hosts }) {
    if (HAVE_RUN.includes(state)) return [note(t("task.no_output"))];
    if (!isOpen(state)) return [];
    const printed = printedBy(hosts);
    return [note(printed ? t("task.live_above", { size: bytes(printed) }) : t("task.no_answer_yet"))];
  }

  async function showWhole(card, group) {
    const streams = (await Promise.all(STREAMS.map((stream) => readWhole(group.hosts[0], stream)))).flat();
    card.text.replaceChildren(...(streams.length ? streams : nothing(group)));
  }

  /** Where its middle is missing, a note says so. */
  async function readWhole(hostname, stream) {
    const path = `${url}/executions/${encodeURIComponent(hostname)}/output`;
    let page = { next_offset: 0 };
    const kept = [];
    while (page.next_offset !== null) {
      page = await api.get(path, { stream, offset: page.next_offset, limit: RANGE_BYTES });
      kept.push(bytesOf(page.data, page.encoding));
    }
    if (!page.size_bytes) return [];
    const whole = await new Blob(kept).bytes();
    const [start, end] = [whole.slice(0, page.head_bytes), whole.slice(page.head_bytes)].map(textOf);
    if (start === null || end === null) return [note(t("task.binary", { size: `${stream}, ${bytes(page.size_bytes)}` }))];
    if (!page.truncated) return [output(start, stream)];
    const gap = note(t("task.gap", { missing: bytes(page.size_bytes - page.kept_bytes), size: bytes(page.size_bytes) }));
    return [output(start, stream), gap, output(end, stream)];
  }

  return { changed, draw };
}

/** What commands print while they run, a card a host: of a few, or of the one that is chosen. */
export function liveCards({ live: place, liveOf, liveField, liveHost }, taskId, { stream, signal }, onNews) {
  const cards = new Map(); // {root, streams: {stdout: {tail, text, bytes}, …}} by hostname
  const section = place.closest("section");
  let watch = null; // null before it is started, and where it is refused
  let open = [];
  let timer = 0;
  let isDrawing = false;

  function start() {
    watch ??= stream.watch(taskId, signal, { onPiece: take, onEnd: end, onRefused: stop });
    choose();
  }

  function stop() {
    watch = null;
    keep([]);
  }

  function keep(hostnames) {
    for (const [hostname, card] of cards) {
      if (hostnames.includes(hostname)) continue;
      card.root?.remove();
      cards.delete(hostname);
    }
    if (!place.childElementCount) section.hidden = true;
  }

  function changed(executions) {
    open = executions;
    keep(open.map((row) => row.hostname));
    if (watch) drawChoice();
    timer ||= setTimeout(choose, LOOK_MS);
  }

  function choose() {
    clearTimeout(timer);
    timer = 0;
    if (!watch || signal.aborted) return;
    const chosen = open.find((row) => row.hostname === liveHost.value);
    const wanted = chosen ? [chosen.hostname] : toWatch(open, cards, MOST_LIVE);
    const isOther = wanted.some((hostname) => !cards.has(hostname));
    if (isOther || chosen) keep(wanted);
    for (const hostname of wanted) if (!cards.has(hostname)) cards.set(hostname, { streams: {} });
    if (isOther) watch(wanted);
    drawChoice();
  }

  function drawChoice() {
    const atWork = open.filter((row) => isAtWork(row) || cards.get(row.hostname)?.root).map((row) => row.hostname).sort();
    const shown = atWork.filter((hostname) => cards.has(hostname)).length;
    text(liveOf, t("task.live_of", { shown, n: atWork.length }));
    liveField.hidden = atWork.length < 2;
    options(liveHost, ["", ...atWork], (hostname) => hostname || t(atWork.length > MOST_LIVE ? "task.live_first" : "task.live_all", { n: MOST_LIVE }));
    section.hidden = !place.childElementCount && shown === atWork.length;
  }

  function take(piece) {
    const card = cards.get(piece.hostname);
    if (!card) return; // its result is there
    const found = (card.streams[piece.stream] ??= { tail: stream.createTail(LIVE_CHARACTERS, (n) => t("task.live_gap", { size: bytes(n) })) });
    Object.assign(found, found.tail(piece));
    card.isNew = true;
    if (!isDrawing) requestAnimationFrame(draw);
    isDrawing = true;
  }

  function draw() {
    isDrawing = false;
    for (const [hostname, card] of cards) {
      if (!card.isNew) continue;
      card.isNew = false;
      if (!card.root) {
        const { root, host, text: texts } = make("live-card");
        text(host, hostname);
        place.append(root);
        Object.assign(card, { root, texts });
      }
      for (const name of STREAMS) drawLive(card, name);
    }
    drawChoice();
    onNews();
  }

  /** Who reads further up stays there, and who marks something is waited for. */
  function drawLive(card, name) {
    const found = card.streams[name];
    if (!found || found.drawn === found.text) return;
    const before = found.element;
    if (before && getSelection().toString() && before.contains(getSelection().anchorNode)) return;
    const isAtEnd = !before || before.scrollHeight - before.scrollTop - before.clientHeight < LINE_PX;
    const [at, hasFocus] = [before?.scrollTop ?? 0, before === document.activeElement];
    const element = output(found.text, name);
    if (before) before.replaceWith(element);
    else card.texts.append(element);
    element.scrollTop = isAtEnd ? element.scrollHeight : at;
    if (hasFocus) element.focus({ preventScroll: true });
    Object.assign(found, { element, drawn: found.text });
  }

  function end(ended) {
    open = open.filter((row) => row.hostname !== ended);
    keep([...cards.keys()].filter((hostname) => hostname !== ended));
  }

  function printedBy(hostnames) {
    const streams = hostnames.flatMap((hostname) => Object.values(cards.get(hostname)?.streams ?? {}));
    return streams.reduce((sum, found) => sum + found.bytes, 0);
  }

  liveHost.onchange = choose;
  signal.addEventListener("abort", () => clearTimeout(timer));
  return { start, changed, printedBy };
}

const keyOf = (group) => `${group.state}/${group.exit_code}/${group.stdout_sha256}/${group.stderr_sha256}`;
const isReadable = (group) => group.stdout !== null && !group.binary.stdout && !group.binary.stderr && !group.truncated;

/** As text, whose last character may be cut in two; null where it is none. */
function textOf(data) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(data, { stream: true });
  } catch {
    return null;
  }
}

const paragraph = () => create("p", "", { className: "note" });
const note = (words) => create("p", words, { className: "note muted" });
