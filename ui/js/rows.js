// A table of thousands of rows, of which those in sight and a few around them are in the document. All rows are equally
// high. Places are told to a screen reader (aria-rowindex); the pattern of keys is that of a grid of rows.
import { rowsOf } from "./components.js";
import { create, keyedList } from "./dom.js";

const AROUND = 10;
const STEP = 10; // rows come and go together
const A_ROW = 36; // px, until one is measured
const KEYS = { ArrowDown: 1, ArrowUp: -1, PageDown: 20, PageUp: -20, Home: -Infinity, End: Infinity };

const clamp = (value, least, most) => Math.max(least, Math.min(value, most));

/** Which rows to hold, `to` is one after the last. The first is `above` px above the upper edge of what is in sight. */
export function windowOf({ above, height, rowHeight, count }) {
  const stepOf = (px, round) => round(px / rowHeight / STEP) * STEP;
  const from = clamp(stepOf(above, Math.floor) - AROUND, 0, Math.max(0, count - 2 * AROUND));
  return { from, to: clamp(stepOf(above + height, Math.ceil) + AROUND, Math.min(count, from + 2 * AROUND), count) };
}

/** The rows of a window and one more, which has the focus: `{place}`; and how many are left out between: `{gap}`. */
export function partsOf({ from, to }, count, more = -1) {
  const places = Array.from({ length: to - from }, (_, at) => from + at);
  if (more >= 0 && more < from) places.unshift(more);
  if (more >= to) places.push(more);
  const parts = [];
  let next = 0;
  for (const place of [...places, count]) {
    if (place > next) parts.push({ gap: place - next });
    if (place < count) parts.push({ place });
    next = place + 1;
  }
  return parts;
}

/** How many rows come, go, or move for one order to become the other: the fewest that do. */
export function changesBetween(before, after) {
  const wasAt = new Map(before.map((key, place) => [key, place]));
  const kept = after.map((key) => wasAt.get(key)).filter((place) => place !== undefined);
  const moved = kept.length - longestRise(kept);
  return before.length - kept.length + (after.length - kept.length) + moved;
}

function longestRise(numbers) {
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

export function windowed(table, key, shows, signal) {
  const { body, createRow, fill } = rowsOf(table, key, shows);
  let items = [];
  let held = { from: 0, to: 0 };
  let rowHeight = A_ROW;
  table.rows[0].ariaRowIndex = 1;

  function inSight() {
    const above = -body.getBoundingClientRect().top;
    return windowOf({ above, height: window.innerHeight, rowHeight, count: items.length });
  }

  const rowOf = (element) => (body.contains(element) ? element.closest("tr") : null);

  function focusedPlace() {
    const focused = rowOf(document.activeElement)?.dataset.key;
    return focused === undefined ? -1 : items.findIndex((item) => item[key] === focused);
  }

  function draw(next = items, focused = null) {
    items = next;
    table.ariaRowCount = items.length + 1;
    held = inSight();
    const active = rowOf(document.activeElement) && document.activeElement;
    let gaps = 0;
    const parts = partsOf(held, items.length, focused ?? focusedPlace());
    keyedList(body, parts, ({ place }) => (place === undefined ? `gap ${(gaps += 1)}` : items[place][key]), create_, update);
    if (active?.isConnected && document.activeElement !== active) active.focus({ preventScroll: true }); // its row has moved
  }

  const create_ = ({ gap }) => (gap ? createGap() : createRow());

  function createGap() {
    const row = create("tr", "", { className: "gap", ariaHidden: "true" });
    row.insertCell(); // one is enough: columns that are hidden would come back with more
    return row;
  }

  function update(row, { place, gap }) {
    if (gap) return row.style.setProperty("--height", `${gap * rowHeight}px`);
    row.ariaRowIndex = place + 2;
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

  function move(step) {
    const at = focusedPlace();
    const place = clamp(at + step, 0, items.length - 1);
    if (at < 0 || !items.length) return false;
    draw(items, place);
    const row = [...body.rows].find((one) => one.dataset.key === items[place][key]);
    row.querySelector("a, button").focus();
    return true;
  }

  body.addEventListener("move", (event) => move(event.detail) && event.preventDefault());
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
