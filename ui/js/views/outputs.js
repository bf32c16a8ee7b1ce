// Who did not answer, then equal outputs of a task together: the rarest answer before the majority's.
/** @import {Context, Execution, Output, OutputGroup, Parts, TaskView} from "../app.js" */
import { settled } from "../ansi.js";
import { badge, output } from "../components.js";
import { diff } from "../diff.js";
import { attempt, create, keyedList, make, refs, text } from "../dom.js";
import { bytes, fold } from "../format.js";
import { t } from "../i18n.js";
import { textOf } from "../lines.js";
import { link } from "../router.js";
import { EXECUTION, attention, isOpen } from "../states.js";
import { pager } from "./pager.js";
import { add } from "./parts.js";
import { SILENT, silentHosts } from "./silent.js";
import { emptyText, reasonText, stateText } from "./task_words.js";

const OUTPUTS_MS = 1000; // at most this often while results come in
const MOST_REASONS = 20;
const MOST_CARDS = 50; // above this their first lines are listed
const LISTED = 100; // of them at a time
const MOST_RUN_ON = 200; // hosts that an address names
const MOST_NAMED = 600; // characters of folded hostnames
const STREAMS = /** @type {const} */ (["stdout", "stderr"]);
const RANK = new Map(Object.keys(EXECUTION).map((state) => [state, attention(state)]));
/** @param {OutputGroup} group */
const rank = ({ state }) => RANK.get(state) ?? -1;

/**
 * @param {Parts["task"]} part @param {TaskView} view @param {Context} context
 * @param {(hostnames: string[]) => number} printedBy
 */
export function outputCards(part, view, context, printedBy) {
  const { api, signal, user, stream: { bytesOf } } = context;
  const place = part.outputs.appendChild(create("div")); // beside what went wrong
  const silent = silentHosts(part, view, context, draw);
  const pages = pager(LISTED, draw);
  /** @type {Set<string>} */
  const opened = new Set(); // of a list, by key
  /** @type {Set<string>} */
  const pressed = new Set(); // cards that show what differs
  const mayRead = user.permissions.includes("tasks.output");
  /** @type {OutputGroup[]} */
  let groups = [];
  let isStale = true;
  let isReading = false;
  place.after(pages.root);

  /** Read again, now or when they are looked at. @param {boolean} isSeen */
  async function changed(isSeen) {
    isStale = true;
    if (isReading || !isSeen || !mayRead) return;
    isReading = true;
    while (isStale && !signal.aborted) {
      isStale = false; // before the read: what changes during it is read once more
      await attempt(part.outputs, read);
      await new Promise((resolve) => setTimeout(resolve, OUTPUTS_MS));
    }
    isReading = false;
  }

  async function read() {
    const found = await api.get(`${view.url}/outputs`);
    groups = found.groups.map((group) => ({ ...group, names: "", bytes: {}, binary: {} }));
    groups.sort((a, b) => a.count - b.count || rank(a) - rank(b));
    draw();
  }

  function draw() {
    const others = groups.filter(({ state }) => !SILENT.includes(state));
    silent.draw();
    drawWaiting(others);
    const isList = others.length > MOST_CARDS;
    const { from, to } = pages.of(isList ? others.length : 0);
    place.classList.toggle("panel", isList);
    const shown = isList ? others.slice(from, to) : others;
    shown.forEach(decode);
    if (isList) keyedList(place, shown, listKey, createItem, updateItem);
    else keyedList(place, shown, keyOf, createCard, updateCard);
  }

  /** Nobody has answered: who cannot. @param {OutputGroup[]} others */
  function drawWaiting(others) {
    const waiting = others.length && groups.every(({ state }) => isOpen(state)) ? others.reduce((sum, { count }) => sum + count, 0) : 0;
    const away = waiting ? silent.away(others.flatMap(({ hosts }) => hosts)) : [];
    part.waiting.hidden = !waiting && mayRead;
    text(part.waiting, !mayRead ? t("shell.needs", { permission: "tasks.output" }) : waiting && [t("task.waiting_for", { n: waiting }), away.length && t("task.waiting_away", { n: away.length, hosts: shortened(fold(away)) })].filter(Boolean).join(" "));
  }

  /** Once, when it is shown. @param {OutputGroup} group */
  function decode(group) {
    if (group.names) return;
    group.names = shortened(fold(group.hosts));
    for (const stream of STREAMS) {
      const printed = group[stream];
      if (printed === null) continue;
      const data = bytesOf(printed, group.encoding);
      group.bytes[stream] = data.length;
      group[stream] = textOf(data) ?? "";
      group.binary[stream] = data.length > 0 && !group[stream];
    }
  }

  /** @param {OutputGroup} group */
  function createItem(group) {
    const item = create("div");
    const open = add(item, "button", "", { className: "plain item" });
    for (const className of ["state", "hosts", "first"]) add(open, "span", "", { className });
    add(item, "div");
    open.onclick = () => {
      const key = keyOf(group);
      if (!opened.delete(key)) opened.add(key);
      draw();
    };
    return item;
  }

  /** @param {Element} element @param {OutputGroup} group */
  function updateItem(element, group) {
    const [button, card] = element.children;
    const [state, hosts, first] = button.children;
    const isOpened = opened.has(keyOf(group));
    badge(state, "execution", group.state, stateText(group));
    text(hosts, `${group.names} (${group.count})`);
    text(first, firstLine(group));
    button.ariaExpanded = String(isOpened);
    keyedList(card, isOpened ? [group] : [], keyOf, createCard, updateCard);
  }

  /** @param {Execution | undefined} row */
  const saidOf = (row) => (row && (row.reason || row.late || row.leftovers) ? reasonText(row) : "");
  /** @param {OutputGroup} group */
  const firstLine = ({ hosts, stdout, stderr }) => view.rowOf(hosts[0])?.first_line ?? (stdout || stderr || "").trim().split("\n", 1)[0].slice(0, 200);

  /** @param {OutputGroup} group */
  function createCard(group) {
    const card = make("output-card");
    const key = keyOf(group);
    card.text.replaceChildren(...texts(group));
    card.diff.onclick = () => toggleDiff(card, key);
    refuse(card.run);
    return card.root;
  }

  /** For the reason why nothing may be tried again either, which is said once and not in each card.
   * @param {HTMLElement} button */
  function refuse(button) {
    const why = part.retry.getAttribute("aria-describedby");
    if (!part.retry.ariaDisabled || !why) return;
    button.ariaDisabled = "true";
    button.setAttribute("aria-describedby", why);
    button.title = document.getElementById(why)?.textContent ?? "";
  }

  /** @param {Element} element @param {OutputGroup} group */
  function updateCard(element, group) {
    /** @type {Parts["output-card"]} */
    const card = refs(element);
    badge(card.state, "execution", group.state, stateText(group));
    text(card.hosts, group.names);
    text(card.note, t("task.on_hosts", { n: group.count }));
    card.run.hidden = group.count > MOST_RUN_ON;
    if (!card.run.hidden) card.run.href = link("/run", { hosts: group.hosts.join(",") });
    card.open.href = view.address({ host: group.hosts[0] });
    text(card.open, group.count > 1 ? t("task.open_one", { host: group.hosts[0] }) : t("task.open"));
    keyedList(card.reasons, reasons(group), (reason) => reason, paragraph, text);
    if (isOpen(group.state)) keyedList(card.text, nothing(group), (one) => one.textContent, (one) => one, () => {});
    const other = majority();
    card.diff.hidden = !isReadable(group) || !other || keyOf(other) === keyOf(group);
  }

  /** @param {OutputGroup} group */
  function reasons({ hosts }) {
    const byReason = Map.groupBy(hosts, (hostname) => saidOf(view.rowOf(hostname)));
    byReason.delete("");
    const found = [...byReason].slice(0, MOST_REASONS);
    const lines = found.map(([reason, names]) => (names.length === hosts.length ? reason : `${shortened(fold(names))}: ${reason}`));
    return byReason.size > MOST_REASONS ? [...lines, "…"] : lines;
  }

  /** To compare others with. */
  function majority() {
    const many = groups.filter(({ count, stdout }) => count > 1 && stdout !== null);
    many.forEach(decode);
    return many.filter(isReadable).reduce((/** @type {?OutputGroup} */ most, group) => (group.count > (most?.count ?? 1) ? group : most), null);
  }

  /** @param {Parts["output-card"]} card @param {string} key */
  function toggleDiff(card, key) {
    const group = groups.find((one) => keyOf(one) === key);
    if (!group) return; // it is another one by now
    const other = pressed.delete(key) ? null : majority();
    if (other) pressed.add(key);
    card.diff.ariaPressed = String(other !== null);
    card.text.replaceChildren(...(other ? differences(other, group) : texts(group)));
  }

  /** @param {OutputGroup} other @param {OutputGroup} group */
  function differences(other, group) {
    const found = STREAMS.filter((stream) => other[stream] !== group[stream]).map((stream) => {
      const marked = diff(settled(other[stream] ?? ""), settled(group[stream] ?? "")).map(({ mark, line }) => `${mark} ${line}`);
      return output(marked.join("\n"), stream);
    });
    return [note(t("task.diff_of", { hosts: other.names })), ...(found.length ? found : [note(t("task.diff_none"))])];
  }

  /** @param {OutputGroup} group */
  function texts(group) {
    if (group.stdout_sha256 && group.stdout === null) return [more(group)];
    const found = STREAMS.flatMap((stream) => {
      const [shown, size] = [group.bytes[stream], view.rowOf(group.hosts[0])?.[`${stream}_bytes`]];
      if (!shown) return [];
      if (group.binary[stream]) return [more(group, t("task.binary", { size: `${stream}, ${bytes(size ?? shown)}` }), stream)];
      const isCut = size === undefined ? group.truncated : (size ?? 0) > shown;
      const end = isCut ? [more(group, t("task.part", { shown: bytes(shown), size: bytes(size) || "…" }), stream)] : [];
      return [output(group[stream] ?? "", stream), ...end];
    });
    return found.length ? found : nothing(group);
  }

  /** @param {OutputGroup} group @param {string} [words] @param {?Output["stream"]} [stream] */
  function more({ hosts: [host] }, words = "", stream = null) {
    const element = note(words);
    element.append(" ", create("a", t("task.whole"), { href: view.address({ host, stream: stream === "stderr" ? stream : null }) }));
    return element;
  }

  /** @param {OutputGroup} group */
  function nothing({ state, hosts }) {
    const printed = isOpen(state) ? printedBy(hosts) : 0;
    const words = printed ? t("task.live_printed", { size: bytes(printed) }) : isOpen(state) ? t("task.no_answer_yet") : emptyText(state);
    return words ? [note(words)] : [];
  }

  return { changed, draw };
}

/** @param {OutputGroup} group */
const keyOf = (group) => `${group.state}/${group.exit_code}/${group.stdout_sha256}/${group.stderr_sha256}`;
/** @param {OutputGroup} group */
const listKey = (group) => `listed/${keyOf(group)}`;
/** @param {OutputGroup} group */
const isReadable = (group) => group.stdout !== null && !group.binary.stdout && !group.binary.stderr && !group.truncated;
/** @param {string} names */
const shortened = (names) => (names.length > MOST_NAMED ? `${names.slice(0, MOST_NAMED)}…` : names);
const paragraph = () => create("p", "", { className: "note" });
/** @param {string} words */
const note = (words) => create("p", words, { className: "note muted" });
