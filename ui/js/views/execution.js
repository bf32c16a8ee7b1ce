// A task's part on one host: what it printed, what happened step by step, and why it ended so.
import { badge, timeNode } from "../components.js";
import { attempt, create, text } from "../dom.js";
import { t } from "../i18n.js";
import { hostPath, inMoment } from "../router.js";
import { isOpen } from "../states.js";
import { delaysOf } from "../delays.js";
import { parts } from "./parts.js";
import { reader } from "./reader.js";
import { brief, delaysText, emptyText, reasonText, stateText } from "./task_words.js";

const STREAMS = ["stdout", "stderr"];
const MOST_EVENTS = 200;

/** `close`: it lies beside the page, and may be closed. */
export function executionPane(hostname, view, { api, user, stream: { bytesOf } }, close = null) {
  const part = elements();
  const may = (permission) => user.permissions.includes(permission);
  const path = `${view.url}/executions/${encodeURIComponent(hostname)}`;
  const readers = new Map();
  let drawnPos = null;
  let result = null; // the event whose output is shown
  let place = ""; // the line that was gone to

  text(part.name, hostname);
  part.host.href = hostPath(hostname);
  part.close.hidden = !close;
  part.close.onclick = close;
  if (close) Object.assign(part.root, { role: "dialog", className: "pane", ariaLabel: hostname });

  function draw() {
    const row = view.rowOf(hostname);
    part.unknown.hidden = !view.isRead() || Boolean(row.state);
    if (!row.state) return;
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

  function readOutput(row) {
    readers.clear();
    part.streams.replaceChildren();
    part.nothing.hidden = false;
    if (!may("tasks.output")) return text(part.nothing, t("shell.needs", { permission: "tasks.output" }));
    for (const name of STREAMS) {
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
    }
    attempt(part.output, async () => {
      await Promise.all(STREAMS.map((name) => readers.get(name).load()));
      const printed = [...readers.values()].filter((one) => !one.isEmpty());
      part.streams.replaceChildren(...printed.map(({ root }) => root));
      part.nothing.hidden = printed.length > 0;
      text(part.nothing, printed.length ? "" : emptyText(row.state));
      goToLine();
    });
  }

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

  const readEvents = (row) => attempt(part.happened, async () => {
    const { items } = await api.get("/events", { task_id: view.taskId, hostname, limit: MOST_EVENTS });
    const { seq, accepted_at: recorded_at, actor } = view.current();
    drawEvents([{ kind: "task.accepted", seq, recorded_at, actor }, ...items.toReversed()], row);
  });

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
  const { part, add } = parts(create("section"));
  const head = add(part.root, "header", "head", "", { className: "head" });
  add(head, "h2", "name", "", { tabIndex: -1 });
  const actions = add(head, "span", "actions", "", { className: "actions" });
  add(actions, "a", "host", t("task.host_page"), { className: "button" });
  add(actions, "button", "close", t("shell.close"));
  const body = add(part.root, "div", "body", "", { className: "stack" });
  add(body, "p", "unknown", t("task.unknown_host"), { className: "empty", hidden: true });
  const about = add(body, "div", "about");
  const row = add(about, "div", "row", "", { className: "row" });
  add(row, "span", "state");
  add(row, "span", "reason");
  add(about, "p", "delays", "", { className: "muted small" });
  add(about, "p", "late", "", { hidden: true });
  const output = add(body, "div", "output");
  add(output, "p", "nothing", "", { className: "muted" });
  add(output, "div", "streams");
  const happened = add(body, "section", "happened");
  add(happened, "h3", "why", t("execution.why"));
  add(happened, "ol", "events", "", { className: "small" });
  return part;
}
