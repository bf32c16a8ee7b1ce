// Equal outputs of a task together: who did not answer first, then the rarest answer, the majority last.
import { settled } from "../ansi.js";
import { badge, output } from "../components.js";
import { diff } from "../diff.js";
import { attempt, keyedList, make, refs, text } from "../dom.js";
import { bytes } from "../format.js";
import { fold } from "../hostlist.js";
import { because, told } from "../i18n.js";
import { EXECUTION } from "../states.js";

const OUTPUTS_MS = 1000; // at most this often while results come in
const RANGE_BYTES = 1024 * 1024;
const LINE_PX = 24; // so near to its end somebody is at it
const MOST_REASONS = 20;
const MOST_LIVE = 20; // a stream has no more topics of the kind
const LIVE_CHARACTERS = 16_384; // of a stream; what is before them its result will tell
const HAVE_RUN = ["succeeded", "failed", "timed_out", "interrupted"];

/**
 * Cards in `place`; call `changed` whenever an execution has, and they are read again. `reasonOf` is asked for each
 * hostname why it ended as it did, and knows it or not.
 */
export function outputCards(place, url, { api, signal, t, toast }, reasonOf) {
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
    ({ groups } = await api.get(`${url}/outputs`, { signal }));
    draw();
  }

  function draw() {
    const rank = (group) => (EXECUTION[group.state]?.answer === "silent" ? 0 : 1);
    groups.sort((a, b) => rank(a) - rank(b) || a.count - b.count);
    keyedList(place, groups, keyOf, createCard, updateCard);
  }

  function createCard(group) {
    const card = make("output-card");
    card.text.replaceChildren(...texts(group));
    card.whole.hidden = !hasMore(group);
    card.whole.addEventListener("click", () => showWhole(card, group));
    card.diff.addEventListener("click", () => toggleDiff(card, groups.find((one) => keyOf(one) === keyOf(group))));
    return card.root;
  }

  function updateCard(element, group) {
    const card = refs(element);
    const word = t(`state.execution.${group.state}`);
    badge(card.state, "execution", group.state, group.exit_code ? t("task.exit_code", { word, code: group.exit_code }) : word);
    text(card.hosts, fold(group.hosts));
    text(card.note, t("task.on_hosts", { n: group.count }));
    keyedList(card.reasons, reasons(group), (reason) => reason, paragraph, text);
    const other = majority();
    card.diff.hidden = !isReadable(group) || !other || keyOf(other) === keyOf(group);
  }

  /** Why these hosts ended as they did; who gave which reason is said where there are several. */
  function reasons({ hosts }) {
    const byReason = Map.groupBy(hosts, (hostname) => because(reasonOf(hostname) ?? ""));
    byReason.delete("");
    const found = [...byReason].slice(0, MOST_REASONS);
    const lines = found.map(([reason, names]) => (names.length === hosts.length ? reason : `${fold(names)}: ${reason}`));
    return byReason.size > MOST_REASONS ? [...lines, "…"] : lines;
  }

  /** What most hosts answered, to compare the others with; only a text that is here as a whole can be compared. */
  function majority() {
    return groups.filter(isReadable).reduce((most, group) => (group.count > (most?.count ?? 1) ? group : most), null);
  }

  function toggleDiff(card, group) {
    const isPressed = card.diff.getAttribute("aria-pressed") !== "true";
    card.diff.setAttribute("aria-pressed", String(isPressed));
    card.text.replaceChildren(...(isPressed ? differences(majority(), group) : texts(group)));
  }

  function differences(other, group) {
    const found = ["stdout", "stderr"].filter((stream) => other[stream] !== group[stream]).map((stream) => {
      const marked = diff(settled(other[stream]), settled(group[stream])).map(({ mark, line }) => `${mark} ${line}`);
      return output(marked.join("\n"), stream === "stderr");
    });
    return [note(t("task.diff_of", { hosts: fold(other.hosts) })), ...(found.length ? found : [note(t("task.diff_none"))])];
  }

  function texts(group) {
    if (group.stdout_sha256 && group.stdout === null) return [];
    if (group.encoding === "base64") return [note(t("task.binary"))];
    const found = ["stdout", "stderr"].filter((stream) => group[stream]).map((stream) => output(group[stream], stream === "stderr"));
    return found.length ? found : nothing(group.state);
  }

  /** What is said where there is no output: nothing where there could be none, since the reason says more. */
  function nothing(state) {
    if (HAVE_RUN.includes(state)) return [note(t("task.no_output"))];
    return ["running", "waiting"].includes(EXECUTION[state]?.answer) ? [note(t("task.no_answer_yet"))] : [];
  }

  async function showWhole(card, group) {
    card.whole.disabled = true;
    try {
      const [hostname] = group.hosts;
      const streams = await Promise.all(["stdout", "stderr"].map((stream) => readWhole(hostname, stream)));
      card.text.replaceChildren(...(streams.flat().length ? streams.flat() : nothing(group.state)));
      card.whole.hidden = true;
    } catch (error) {
      card.whole.disabled = false;
      if (error.name !== "AbortError") toast(told(error), "bad");
    }
  }

  /** All that is kept of a stream: its start, and where the middle is missing also a note that says so and its end. */
  async function readWhole(hostname, stream) {
    const path = `${url}/executions/${encodeURIComponent(hostname)}/output`;
    let page = { next_offset: 0 };
    let kept = "";
    while (page.next_offset !== null) {
      page = await api.get(path, { query: { stream, offset: page.next_offset, limit: RANGE_BYTES }, signal });
      if (page.encoding === "base64") return [note(t("task.binary"))];
      kept += page.data;
    }
    if (!kept) return [];
    const isError = stream === "stderr";
    if (!page.truncated) return [output(kept, isError)];
    const whole = new TextEncoder().encode(kept);
    const [start, end] = [whole.slice(0, page.head_bytes), whole.slice(page.head_bytes)].map((part) => new TextDecoder().decode(part));
    const gap = note(t("task.gap", { missing: bytes(page.size_bytes - page.kept_bytes), size: bytes(page.size_bytes) }));
    return [output(start, isError), gap, output(end, isError)];
  }

  return { changed };
}

/**
 * What the commands of a task print while they run, a card a host in `place`; `ended` takes away what has its result.
 * Of a task on many hosts the first ones are shown.
 */
export function liveCards(place, taskId, { stream, signal, t }) {
  const cards = new Map(); // by hostname: {root, streams: {stdout: {tail, text}, …}}
  const section = place.closest("section");
  let isDrawing = false;

  function start(hostnames) {
    const first = hostnames.slice(0, MOST_LIVE);
    for (const hostname of first) cards.set(hostname, { streams: {} });
    if (first.length) stream.watch(taskId, first, signal, take);
  }

  function take(piece) {
    const card = cards.get(piece.hostname);
    if (!card) return; // its result is there
    const found = (card.streams[piece.stream] ??= { tail: stream.createTail(LIVE_CHARACTERS, (n) => t("task.live_gap", { size: bytes(n) })) });
    found.text = found.tail(piece);
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
        card.root = make("live-card");
        text(card.root.host, hostname);
        place.append(card.root.root);
      }
      for (const name of ["stdout", "stderr"]) drawLive(card, name);
    }
    section.hidden = !place.childElementCount;
  }

  /** Whoever reads further up stays there, and who marks something is waited for; else the end is what shows. */
  function drawLive(card, name) {
    const found = card.streams[name];
    if (!found || found.drawn === found.text) return;
    const before = found.element;
    if (before && getSelection().toString() && before.contains(getSelection().anchorNode)) return;
    const isAtEnd = !before || before.scrollHeight - before.scrollTop - before.clientHeight < LINE_PX;
    const [at, hasFocus] = [before?.scrollTop ?? 0, before === document.activeElement];
    const element = output(found.text, name === "stderr");
    if (before) before.replaceWith(element);
    else card.root.text.append(element);
    element.scrollTop = isAtEnd ? element.scrollHeight : at;
    if (hasFocus) element.focus({ preventScroll: true });
    Object.assign(found, { element, drawn: found.text });
  }

  function ended(hostnames) {
    for (const hostname of hostnames) {
      cards.get(hostname)?.root?.root.remove();
      cards.delete(hostname);
    }
    section.hidden = !place.childElementCount;
  }

  return { start, ended };
}

const keyOf = (group) => `${group.state}/${group.exit_code}/${group.stdout_sha256}/${group.stderr_sha256}`;
const isReadable = (group) => group.stdout !== null && group.encoding !== "base64" && !group.truncated;
const hasMore = (group) => group.encoding !== "base64" && (group.truncated || (group.stdout_sha256 !== null && group.stdout === null));

function paragraph() {
  const element = document.createElement("p");
  element.className = "note";
  return element;
}

function note(words) {
  const element = paragraph();
  element.classList.add("muted");
  element.textContent = words;
  return element;
}
