// A task's part on one host: what it printed, what happened step by step, and why it ended so.
/** @import {AuditEvent, Context, Execution, Output, TaskView} from "../app.js" */
import { visible } from "../ansi.js";
import { badge, timeNode } from "../components.js";
import { attempt, create, successive, text } from "../dom.js";
import { t } from "../i18n.js";
import { hostPath, inMoment } from "../router.js";
import { isOpen } from "../states.js";
import { delaysOf } from "../delays.js";
import { add } from "./parts.js";
import { reader } from "./reader.js";
import { brief, delaysText, emptyText, reasonText, stateText } from "./task_words.js";

const STREAMS = /** @type {const} */ (["stdout", "stderr"]);
const MOST_EVENTS = 200;

/** `close`: it lies beside the page, and may be closed.
 * @param {string} hostname @param {TaskView} view @param {Context} context @param {(() => void) | null} close */
export function executionPane(hostname, view, { api, signal, user, stream: { bytesOf } }, close = null) {
  const part = elements();
  /** @param {string} permission */
  const may = (permission) => user.permissions.includes(permission);
  const path = /** @type {const} */ (`${view.url}/executions/${encodeURIComponent(hostname)}`);
  /** @type {Map<string, ReturnType<typeof reader>>} */
  const readers = new Map();
  const nextEvents = successive(signal);
  let drawnPos = -1;
  /** @type {number | null | undefined} */
  let result = null; // the event whose output is shown
  let place = ""; // the line that was gone to

  text(part.name, hostname);
  part.host.href = hostPath(hostname);
  part.close.hidden = !close;
  part.close.onclick = close;
  if (close) Object.assign(part.root, { role: "dialog", className: "pane", ariaLabel: visible(hostname) });

  function draw() {
    const row = view.rowOf(hostname);
    part.unknown.hidden = !view.isRead() || Boolean(row);
    if (!row) return;
    if (row.pos !== drawnPos) {
      drawnPos = row.pos;
      badge(part.state, "execution", row.state, stateText(row));
      text(part.reason, reasonText(row));
      text(part.delays, delaysText(delaysOf(row)));
      part.nothing.hidden = row.result_seq !== null;
      text(part.nothing, isOpen(row.state) ? t("task.no_answer_yet") : "");
      if (may("events.read")) readEvents(row);
    }
    if (row.result_seq !== result) {
      result = row.result_seq;
      readOutput(row);
    }
    goToLine();
  }

  /** @param {Execution} row */
  function readOutput(row) {
    readers.clear();
    part.streams.replaceChildren();
    part.nothing.hidden = false;
    if (!may("tasks.output")) return text(part.nothing, t("shell.needs", { permission: "tasks.output" }));
    const both = STREAMS.map((name) => {
      const one = reader({
        name,
        bytesOf,
        fileName: `${hostname}-${view.taskId}.${name}`,
        read: (offset, limit) => api.get(`${path}/output`, { stream: name, offset, limit }),
        hrefOf: (line) => addressOf(name, line),
        opened(line) {
          history.pushState(null, "", addressOf(name, line));
          view.went();
        },
      });
      readers.set(name, one);
      return one;
    });
    attempt(part.output, async () => {
      await Promise.all(both.map((one) => one.load()));
      const printed = both.filter((one) => !one.isEmpty());
      part.streams.replaceChildren(...printed.map(({ root }) => root));
      part.nothing.hidden = printed.length > 0;
      text(part.nothing, printed.length ? "" : emptyText(row.state));
      goToLine();
    });
  }

  /** @param {Output["stream"]} name @param {number} line */
  const addressOf = (name, line) => `${inMoment(view.address({ stream: name === "stdout" ? null : name }))}#L${line}`;

  /** Where the address says, once: who has scrolled away stays there. */
  function goToLine() {
    const line = /^#L(\d+)$/.exec(location.hash)?.[1];
    const stream = view.params().stream ?? "stdout";
    const wanted = `${stream}/${line}/${result}`;
    const one = readers.get(stream);
    if (!line || wanted === place || !one?.root.isConnected) return;
    place = wanted;
    attempt(part.output, () => one.goTo(Number(line)));
  }

  /** @param {Execution} row */
  function readEvents(row) {
    const task = view.current();
    if (!task) return;
    const first = { kind: "task.accepted", seq: task.seq, recorded_at: task.accepted_at, actor: task.actor, outcome: null };
    attempt(part.happened, async () => {
      const { items } = await api.get("/events", { task_id: view.taskId, hostname, limit: MOST_EVENTS, min_seq: row.pos }, nextEvents());
      drawEvents([first, ...items.toReversed()], row);
    });
  }

  /** @param {Pick<AuditEvent, "kind" | "seq" | "recorded_at" | "actor" | "outcome">[]} events @param {Execution} row */
  function drawEvents(events, { late, result_seq: resultSeq }) {
    part.events.replaceChildren(...events.map((event, index) => {
      const item = create("li");
      const since = index ? Date.parse(event.recorded_at) - Date.parse(events[index - 1].recorded_at) : null;
      const facts = [event.outcome && t(`state.execution.${event.outcome}`), since !== null && t("execution.after", { time: brief(since) }), event.actor].filter(Boolean);
      item.append(create("code", event.kind), " ", timeNode(event.recorded_at), create("span", ` · ${facts.join(" · ")}`, { className: "muted" }));
      if (event.seq === resultSeq) item.append(create("span", ` · ${t("execution.decides")}`));
      return item;
    }));
    part.late.hidden = !late;
    if (!late) return;
    const event = events.find(({ seq }) => seq === late.seq);
    part.late.replaceChildren(t("execution.late", { code: late.exit_code ?? "–", word: t(`state.execution.${late.outcome}`) }), ...(event ? [" ", timeNode(event.recorded_at)] : []));
  }

  if (!may("events.read")) part.happened.hidden = true;
  return { root: part.root, name: part.name, hostname, draw };
}

function elements() {
  const root = create("section");
  const head = add(root, "header", "", { className: "head" });
  const name = add(head, "h2", "", { tabIndex: -1 });
  const actions = add(head, "span", "", { className: "actions" });
  const body = add(root, "div", "", { className: "stack" });
  const unknown = add(body, "p", t("task.unknown_host"), { className: "empty", hidden: true });
  const about = add(body, "div");
  const row = add(about, "div", "", { className: "row" });
  const output = add(body, "div");
  const happened = add(body, "section");
  add(happened, "h3", t("execution.why"));
  return {
    root,
    name,
    unknown,
    output,
    happened,
    host: add(actions, "a", t("task.host_page"), { className: "button" }),
    close: add(actions, "button", t("shell.close")),
    state: add(row, "span"),
    reason: add(row, "span"),
    delays: add(about, "p", "", { className: "muted small" }),
    late: add(about, "p", "", { hidden: true }),
    nothing: add(output, "p", "", { className: "muted" }),
    streams: add(output, "div"),
    events: add(happened, "ol", "", { className: "small" }),
  };
}
