// A table of thousands of rows, of which those in sight and a few around them are in the document. All rows are equally
// high. Places are told to a screen reader (aria-rowindex); the pattern of keys is that of a grid of rows.
/** @import {Columns, Counts, Held, HeldPart, Shows} from "./app.js" */
import { rowsOf } from "./components.js";
import { create, keyedList, one } from "./dom.js";

const AROUND = 10;
const STEP = 10; // rows come and go together
const A_ROW = 36; // px, until one is measured
/** @type {Counts} */
const KEYS = { ArrowDown: 1, ArrowUp: -1, PageDown: 20, PageUp: -20, Home: -Infinity, End: Infinity };

/** @param {number} value @param {number} least @param {number} most */
const clamp = (value, least, most) => Math.max(least, Math.min(value, most));

/** Which rows to hold, `to` is one after the last. The first is `above` px above the upper edge of what is in sight.
 * @param {Record<"above" | "height" | "rowHeight" | "count", number>} sizes */
export function windowOf({ above, height, rowHeight, count }) {
  /** @param {number} px @param {(value: number) => number} round */
  const stepOf = (px, round) => round(px / rowHeight / STEP) * STEP;
  const from = clamp(stepOf(above, Math.floor) - AROUND, 0, Math.max(0, count - 2 * AROUND));
  return { from, to: clamp(stepOf(above + height, Math.ceil) + AROUND, Math.min(count, from + 2 * AROUND), count) };
}

/** The rows of a window and one more, which has the focus: `{place}`; and how many are left out between: `{gap}`.
 * @param {Held} held @param {number} count */
export function partsOf({ from, to }, count, more = -1) {
  const places = Array.from({ length: to - from }, (_, at) => from + at);
  if (more >= 0 && more < from) places.unshift(more);
  if (more >= to) places.push(more);
  /** @type {HeldPart[]} */
  const parts = [];
  let next = 0;
  for (const place of [...places, count]) {
    if (place > next) parts.push({ gap: place - next });
    if (place < count) parts.push({ place });
    next = place + 1;
  }
  return parts;
}

/** How many rows come, go, or move for one order to become the other: the fewest that do.
 * @param {string[]} before @param {string[]} after */
export function changesBetween(before, after) {
  const wasAt = new Map(before.map((key, place) => [key, place]));
  const kept = after.map((key) => wasAt.get(key)).filter((place) => place !== undefined);
  const moved = kept.length - longestRise(kept);
  return before.length - kept.length + (after.length - kept.length) + moved;
}

/** @param {number[]} numbers */
function longestRise(numbers) {
  /** @type {number[]} */
  const ends = []; // the least number that a rise of each length ends with
  for (const number of numbers) {
    let [low, high] = [0, ends.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (ends[middle] < number) low = middle + 1;
      else high = middle;
    }
    ends[low] = number;
  }
  return ends.length;
}

/** @template {{}} T @template {string} Own @param {HTMLTableElement & Columns<NoInfer<keyof T | Own>>} table
 * @param {keyof T} key @param {Shows<T, Own>} own @param {AbortSignal} signal */
export function windowed(table, key, own, signal) {
  const { body, createRow, fill } = rowsOf(table, key, own);
  /** @type {T[]} */
  let items = [];
  let held = { from: 0, to: 0 };
  let rowHeight = A_ROW;
  table.rows[0].ariaRowIndex = "1";

  function inSight() {
    const above = -body.getBoundingClientRect().top;
    return windowOf({ above, height: window.innerHeight, rowHeight, count: items.length });
  }

  /** @param {?Element} element */
  const rowOf = (element) => (body.contains(element) ? element?.closest("tr") : null);

  function focusedPlace() {
    const focused = rowOf(document.activeElement)?.dataset.key;
    return focused === undefined ? -1 : items.findIndex((item) => item[key] === focused);
  }

  /** @param {?number} focused */
  function draw(next = items, focused = null) {
    items = next;
    table.ariaRowCount = `${items.length + 1}`;
    held = inSight();
    const active = rowOf(document.activeElement) ? document.activeElement : null;
    let gaps = 0;
    const parts = partsOf(held, items.length, focused ?? focusedPlace());
    keyedList(body, parts, ({ place }) => (place === undefined ? `gap ${(gaps += 1)}` : items[place][key]), create_, update);
    if (active instanceof HTMLElement && active.isConnected && document.activeElement !== active) active.focus({ preventScroll: true }); // its row has moved
  }

  /** @param {HeldPart} part */
  const create_ = ({ gap }) => (gap ? createGap() : createRow());

  function createGap() {
    const row = create("tr", "", { className: "gap", ariaHidden: "true" });
    row.insertCell(); // one is enough: columns that are hidden would come back with more
    return row;
  }

  /** @param {HTMLTableRowElement} row @param {HeldPart} part */
  function update(row, { place = 0, gap }) {
    if (gap) return row.style.setProperty("--height", `${gap * rowHeight}px`);
    row.ariaRowIndex = `${place + 2}`;
    fill(row, items[place]);
  }

  function follow() {
    const { from, to } = inSight();
    if (from !== held.from || to !== held.to) draw();
  }

  function measure() {
    const row = body.querySelector("tr:not(.gap)");
    const height = row?.getBoundingClientRect().height;
    if (!height || height === rowHeight) return;
    rowHeight = height;
    draw();
  }

  /** @param {number} step */
  function move(step) {
    const at = focusedPlace();
    const place = clamp(at + step, 0, items.length - 1);
    if (at < 0 || !items.length) return false;
    draw(items, place);
    one(body, `[data-key="${CSS.escape(String(items[place][key]))}"] :is(a, button)`, HTMLElement).focus();
    return true;
  }

  body.addEventListener("move", (event) => event instanceof CustomEvent && move(event.detail) && event.preventDefault());
  body.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || !(event.key in KEYS)) return;
    if (move(KEYS[event.key])) event.preventDefault();
  });
  document.addEventListener("scroll", follow, { passive: true, capture: true, signal });
  window.addEventListener("resize", follow, { signal });
  const observer = new ResizeObserver(measure);
  observer.observe(table);
  signal.addEventListener("abort", () => observer.disconnect());
  return { body, draw };
}
