// A list of rows, newest first, read page by page: tasks, and events.
/** @import {Context, Listing, Newest, Own, Shows, Tables} from "../app.js" */
import { empty, rowsOf } from "../components.js";
import { all, attempt, keyedList, make, successive, text } from "../dom.js";
import { t } from "../i18n.js";

const PAGE = 100;
const MOST_LIVE = 2_000; // rows that have come since the list was read; then it is read anew, and is short again

/**
 * New rows wait behind a button unless the page is at its top, so that nothing moves under the user. At `most` so many are drawn.
 * `own`: cells as a page has them; they are told of the row below, too.
 * @template {"tasks" | "events"} F
 * @param {HTMLElement} place @param {Context & {own?: Own<Tables[F]>}} context @param {Newest<F>} given
 */
export function newestFirst(place, { api, store, stream, signal, own = {} }, { from, tables = [from], head, shows, isWanted, none, query, limit = PAGE, most = Infinity, onPage = () => {} }) {
  const part = make("newest");
  place.replaceChildren(part.root);
  const table = part.table.appendChild(make(head).root);
  /** @type {Map<number, Tables[F]>} */
  const below = new Map();
  /** @type {Shows<Tables[F]>} */
  const owns = Object.fromEntries(Object.entries(own).map(([name, show]) => [name, (row, cell) => show(row, cell, below.get(row.seq))]));
  const rows = rowsOf(table, "seq", { ...shows, ...owns });
  let isRead = false; // for what is asked now
  let newest = Infinity; // when it was read
  let top = 0; // rows up to here are shown
  let bottom = Infinity; // and were read down to here
  /** @type {string | null | undefined} */
  let cursor = null;
  let count = 0; // of the rows up to the top
  let skipped = 0; // of those: the newest, where they are too many
  const nextSignal = successive(signal);

  function draw() {
    const found = store.all(from).filter((row) => row.seq >= bottom && isWanted(row)).sort((a, b) => b.seq - a.seq);
    const isAtTop = window.scrollY < 40 && !skipped;
    if (isAtTop || !top) top = Math.max(top, found[0]?.seq ?? 0);
    if (isAtTop && found[MOST_LIVE]?.seq > newest) {
      newest = Infinity;
      load();
    }
    const shown = found.filter((row) => row.seq <= top);
    count = shown.length;
    const newer = found.length - count + skipped;
    part.news.hidden = !newer;
    text(part.news, t("shell.news", { n: newer }));
    part.more.hidden = !cursor && count <= skipped + most;
    for (const [place, { seq }] of shown.entries()) below.set(seq, shown[place + 1]);
    drawRows(shown.slice(skipped, skipped + most));
    part.empty.hidden = found.length > 0 || !isRead;
    if (!part.empty.hidden) empty(part.empty, ...(Array.isArray(none) ? none : none()));
  }

  /** What is open below a row stays, with the focus in it, as long as its row does. @param {Tables[F][]} shown */
  function drawRows(shown) {
    const details = new Map([...all(rows.body, ".detail")].map((detail) => [Number(detail.dataset.of), detail]));
    /** @type {(Tables[F] | HTMLElement)[]} */
    const wanted = shown.flatMap((row) => {
      const detail = details.get(row.seq);
      return detail ? [row, detail] : [row];
    });
    keyedList(rows.body, wanted, (item) => ("seq" in item ? item.seq : item.dataset.key), rows.createRow, (element, item) => "seq" in item && rows.fill(element, item));
  }

  /** Something else is asked for: what is known of it is shown, and whether that is all is not known. */
  function reset() {
    nextSignal(); // no answer of before comes now
    isRead = false;
    cursor = null;
  }

  const load = (/** @type {?string} */ next = null) => attempt(part.root, () => read(next));

  /** @param {?string} next */
  async function read(next) {
    // The answer to an older query counts no more.
    const asked = await api.get(/** @type {string} */ (`/${from}`), { ...query(), limit, cursor: next }, nextSignal());
    const page = /** @type {Listing<Tables[F]>} */ (asked);
    isRead = true;
    cursor = page.next_cursor;
    if (!next) newest = page.items[0]?.seq ?? 0;
    bottom = cursor ? page.items[page.items.length - 1].seq : 0;
    onPage(page);
    stream.take(from, page.items);
    draw();
    stream.follow([from], page.as_of, signal, load);
  }

  part.more.onclick = async () => {
    if (cursor && count < skipped + most + PAGE) await load(cursor);
    skipped = Math.max(0, Math.min(skipped + PAGE, count - most));
    draw();
  };
  part.news.onclick = () => {
    top = Infinity;
    skipped = 0;
    draw();
    top = 0;
  };
  store.keep(from, (row) => row.seq >= bottom && isWanted(row), signal);
  store.subscribe(tables, draw, signal);
  return { draw, load, reset };
}
