// What commands print while they run, a card a host: of a few, or of the one that is chosen.
/** @import {Context, Execution, LiveCard, Parts, Piece} from "../app.js" */
import { output } from "../components.js";
import { create, make, one, options, text } from "../dom.js";
import { bytes } from "../format.js";
import { t } from "../i18n.js";
import { isAtWork, toWatch } from "../states.js";

const LINE_PX = 24;
const MOST_LIVE = 20; // topics of a stream
const MOST_OFFERED = 500; // hosts of which one can be chosen
const LOOK_MS = 2000; // until other hosts take the place of those that have ended
const LIVE_CHARACTERS = 16_384; // of a stream
const STREAMS = /** @type {const} */ (["stdout", "stderr"]);

/** Whether the end of it is in sight. @param {HTMLElement} element */
const isRead = (element) => element.scrollHeight - element.scrollTop - element.clientHeight < LINE_PX;

/** @param {Parts["task"]} part @param {string} taskId @param {Context} context @param {() => void} onNews */
export function liveCards({ live: place, liveTab, liveOf, liveField, liveHost }, taskId, { stream, signal }, onNews) {
  /** @type {Map<string, LiveCard>} */
  const cards = new Map(); // by hostname
  const section = one(liveTab, "section", HTMLElement);
  /** @type {?ReturnType<typeof stream.watch>} */
  let watch = null; // null before it is started, and where it is refused
  /** @type {Execution[]} */
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

  /** @param {string[]} hostnames */
  function keep(hostnames) {
    for (const [hostname, card] of cards) {
      if (hostnames.includes(hostname)) continue;
      card.part?.root.remove();
      cards.delete(hostname);
    }
    if (!place.childElementCount) section.hidden = true;
  }

  /** @param {Execution[]} executions */
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
    const atWork = open.filter((row) => isAtWork(row) || cards.get(row.hostname)?.part).map((row) => row.hostname).sort();
    const shown = atWork.filter((hostname) => cards.has(hostname)).length;
    text(liveOf, t("task.live_of", { shown, n: atWork.length }));
    liveField.hidden = atWork.length < 2;
    options(liveHost, [...new Set(["", ...atWork.slice(0, MOST_OFFERED), ...(atWork.includes(liveHost.value) ? [liveHost.value] : [])])], (hostname) => hostname || t(atWork.length > MOST_LIVE ? "task.live_first" : "task.live_all", { n: MOST_LIVE }));
    section.hidden = !place.childElementCount && shown === atWork.length;
  }

  /** @param {Piece} piece */
  function take(piece) {
    const card = cards.get(piece.hostname);
    if (!card) return; // its result is there
    const found = (card.streams[piece.stream] ??= { tail: stream.createTail(LIVE_CHARACTERS, (n) => t("task.live_gap", { size: bytes(n) })), text: "", bytes: 0, lines: 0, read: 0 });
    if (piece.offset >= found.bytes) found.lines += piece.data.split("\n").length - 1; // and not what comes twice
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
      if (!card.part) {
        card.part = make("live-card");
        text(card.part.host, hostname);
        place.append(card.part.root);
      }
      for (const name of STREAMS) drawLive(card, name);
    }
    drawChoice();
    onNews();
  }

  /** Who reads further up stays there, and is told how much has come; who marks something is waited for.
   * @param {LiveCard} card @param {typeof STREAMS[number]} name */
  function drawLive(card, name) {
    const found = card.streams[name];
    if (!found || found.drawn === found.text) return;
    const before = found.element;
    const selection = getSelection();
    if (before && selection?.toString() && before.contains(selection.anchorNode)) return;
    const isAtEnd = !before || isRead(before);
    const [at, hasFocus] = [before?.scrollTop ?? 0, before === document.activeElement];
    const element = output(found.text, name);
    const news = (found.news ??= create("button", "", { className: "more-below" }));
    if (before) before.replaceWith(element);
    else card.part?.text.append(element, news);
    element.scrollTop = isAtEnd ? element.scrollHeight : at;
    const tell = () => {
      if (isRead(element)) found.read = found.lines;
      news.hidden = found.read === found.lines;
      text(news, t("task.live_new", { n: found.lines - found.read }));
    };
    element.onscroll = tell;
    news.onclick = () => {
      element.scrollTop = element.scrollHeight;
      element.focus({ preventScroll: true });
    };
    tell();
    if (hasFocus) element.focus({ preventScroll: true });
    Object.assign(found, { element, drawn: found.text });
  }

  /** @param {string} ended */
  function end(ended) {
    open = open.filter((row) => row.hostname !== ended);
    keep([...cards.keys()].filter((hostname) => hostname !== ended));
  }

  /** @param {string[]} hostnames */
  function printedBy(hostnames) {
    const streams = hostnames.flatMap((hostname) => Object.values(cards.get(hostname)?.streams ?? {}));
    return streams.reduce((sum, found) => sum + found.bytes, 0);
  }

  liveHost.onchange = choose;
  signal.addEventListener("abort", () => clearTimeout(timer));
  return { start, changed, printedBy };
}
