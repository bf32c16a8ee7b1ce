// How far a task is: a bar and numbers, each of which leads to its hosts.
/** @import {Execution, Parts, Rollout, TaskRow, TaskView, Told} from "../app.js" */
import { announce, create, keyedList, text } from "../dom.js";
import { between, duration } from "../format.js";
import { language, t } from "../i18n.js";
import { paceOf } from "../delays.js";
import { ANSWERS, EXECUTION, answersOf, endedOf, segments, stateOf } from "../states.js";
import { answersText } from "./tasks.js";

const ANNOUNCE_MS = 10_000;
const STATES = Object.keys(EXECUTION);
/** @param {"role" | "answer"} name @param {string} wanted */
const statesOf = (name, wanted) => STATES.filter((state) => (EXECUTION[state][name] ?? "wait") === wanted).join(",");

/** @param {Parts["task"]} part @param {TaskView} view */
export function progress(part, view) {
  let said = "";
  let announcedMs = 0;
  let shown = ""; // the state that the task was in before

  /** Its hosts in these states; pressed again, all of them. @param {string} states */
  function choose(states) {
    const isChosen = view.params().state === states;
    view.go({ tab: "hosts", state: isChosen ? null : states });
  }

  /** @param {TaskRow} task @param {Execution[]} rows */
  function draw(task, rows) {
    drawBar(task.counts);
    drawNumbers(task, rows);
    const sum = Object.values(task.counts).reduce((total, count) => total + count, 0);
    part.mismatch.hidden = sum === task.targets;
    tell(task);
  }

  /** @param {TaskRow["counts"]} counts */
  function drawBar(counts) {
    keyedList(part.bar, segments(counts), ([role]) => role, createSegment, (button, [role, count]) => {
      const present = Object.keys(counts).filter((state) => counts[state] && stateOf("execution", state).role === role);
      button.style.setProperty("--share", String(count));
      button.title = present.map((state) => `${t(`state.execution.${state}`)}: ${counts[state]}`).join(", ");
      button.ariaLabel = button.title;
      button.ariaPressed = String(view.params().state === statesOf("role", role));
    });
  }

  const createSegment = (/** @type {[string, number]} */ [role]) => create("button", "", { className: `role-${role}`, onclick: () => choose(statesOf("role", role)) });

  /** @param {TaskRow} task @param {Execution[]} rows */
  function drawNumbers(task, rows) {
    const sums = answersOf(task.counts);
    const done = endedOf(task.counts);
    const answers = ANSWERS.filter((answer) => sums[answer]).map((answer) => ({ key: answer, words: t(`task.answer_${answer}`, { n: sums[answer] }), states: statesOf("answer", answer) }));
    /** @type {Told[]} */
    const items = [{ key: "done", words: t("task.progress", { done, n: task.targets }) }, ...answers, ...timesOf(task, rows, done)].filter(({ words }) => words);
    keyedList(part.summary, items, ({ key }) => key, createItem, ({ lastElementChild: place }, { words, states }) => {
      if (place) text(place, words);
      if (place && states) place.ariaPressed = String(view.params().state === states);
    });
  }

  /** @param {Told} item */
  function createItem({ key, states }) {
    const item = create("span", key === "done" ? "" : " · ");
    item.append(states ? create("button", "", { className: "plain", onclick: () => choose(states) }) : create("span"));
    return item;
  }

  /** @param {TaskRow} task @param {Execution[]} rows @param {number} done @returns {Told[]} */
  function timesOf(task, rows, done) {
    const now = view.now();
    const isExpired = view.isExpired(task);
    const waits = isExpired ? t("task.expired") : task.awaits_approval ? t("task.awaits_approval") : task.waits_after_canary && goesOnText(task, rows);
    const isGoing = task.state === "running" && !waits;
    const pace = isGoing && now ? paceOf(done, task.targets, Date.parse(task.accepted_at), now) : null;
    const end = task.finished_at ?? (now && new Date(now).toISOString());
    return [
      { key: "waits", words: waits },
      { key: "took", words: between(task.accepted_at, end || null) },
      { key: "rate", words: pace && rateText(pace.rate) },
      { key: "left", words: pace && t("task.left", { time: duration(pace.leftMs) }) },
    ];
  }

  /** The end at once, all else not more often than one can listen to. @param {TaskRow} task */
  function tell(task) {
    const words = `${t("task.progress", { done: endedOf(task.counts), n: task.targets })}: ${answersText(task.counts)}`;
    const isEnd = task.state === "finished" && shown && shown !== task.state;
    if (isEnd) announce(`${t(`state.task.${task.outcome}`)}: ${answersText(task.counts)}`);
    else if (shown && words !== said && performance.now() - announcedMs > ANNOUNCE_MS) announce(words);
    else if (shown) return (shown = task.state);
    announcedMs = performance.now();
    said = words;
    shown = task.state;
  }
  return { draw };
}

/** @param {number} rate */
function rateText(rate) {
  return rate >= 1 ? t("task.rate", { n: Math.round(rate) }) : t("task.rate_minute", { n: (rate * 60).toFixed(rate < 1 / 60 ? 1 : 0) });
}

/** When the others get it: only rows of its canary have ended. @param {TaskRow} task @param {Execution[]} rows */
function goesOnText({ rollout }, rows) {
  const { wait } = /** @type {Rollout} */ (rollout);
  const ends = rows.reduce((last, row) => Math.max(last, Date.parse(row.finished_at ?? "") || 0), 0);
  return t("task.waits_after_canary", { time: new Date(ends + Number(wait) * 1000).toLocaleTimeString(language) });
}
