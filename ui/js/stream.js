// The live stream of a visible tab, over fetch: EventSource hides the HTTP status and cannot resume at will.
/** @import {Follower, Piece, StreamState, Table, Tables} from "./app.js" */
import { askToSignIn, attendance, isAbort } from "./api.js";
import * as store from "./store.js";

const SILENCE_MS = 12_000; // the server pings every five seconds
const STALE_MS = 30_000;
const LAG_S = 2;
const GATHER_MS = 50; // what begins to follow within this time shares one connection
const HIDDEN_MS = 3_000;
const MOST_BACKOFF_S = 30;

/** @type {Set<Follower>} */
const followers = new Set();
/** @type {Set<(state: StreamState) => unknown>} */
const listeners = new Set();
/** The moment that is shown instead of what is now. @type {?number} */
let pastMs = null;
/** @type {StreamState} */
export const state = { openedAt: 0, lastFrameAt: 0, retryAt: 0, isRefused: false, ping: null };

/** @type {?AbortController} */
let controller = null;
/** @type {?string} */
let lastId = null;
let failures = 0;
let timer = 0;
let hiddenTimer = 0;

/** @type {Record<string, string>} */
const KEYS = { hosts: "hostname", tasks: "task_id", events: "seq", projections: "name" };

/** All whose rows have positions of the log. @type {Table[]} */
const TABLES = ["hosts", "tasks", "executions", "events", "projections"];

/** @template {Exclude<Table, "projections" | "stop">} N @param {N} table @param {Iterable<Tables[N]>} rows */
export function take(table, rows) {
  for (const row of rows) put(table, "pos" in row ? row.pos : row.seq, row);
}

/** @template {Table} N @param {N} table @param {number} pos @param {Tables[N]} row */
const put = (table, pos, row) => store.put(table, idOf(table, row), pos, row);

/** @param {Table} table @param {Record<string, any>} row @returns {string | number} */
const idOf = (table, row) => row[KEYS[table]] ?? `${row.task_id}/${row.hostname}`;

/** Follow topics from a position on. `onReset`: the server cannot go on from there.
 * @param {string[]} topics @param {string} asOf @param {AbortSignal} signal @param {() => unknown} [onReset] */
export function follow(topics, asOf, signal, onReset) {
  if ([...followers].some((one) => one.signal === signal && String(one.topics) === String(topics))) return;
  lastId = lastId === null ? asOf : lower(lastId, asOf);
  add({ topics, signal, onReset });
}

/** Follow what a task's commands print, which may be refused. Gives what says on which hosts from now on.
 * @param {string} taskId @param {AbortSignal} signal @param {Pick<Follower, "onPiece" | "onEnd" | "onRefused">} told */
export function watch(taskId, signal, { onPiece, onEnd, onRefused }) {
  /** @type {Follower} */
  const follower = { topics: [], signal, onPiece, onEnd, onRefused };
  return (/** @type {string[]} */ hostnames) => {
    follower.topics = hostnames.map((hostname) => outputTopic({ task_id: taskId, hostname }));
    add(follower);
  };
}

/** @param {{task_id: string, hostname: string}} of */
const outputTopic = ({ task_id: taskId, hostname }) => `output:${taskId}:${hostname}`;

/** @param {Follower} follower */
function add(follower) {
  if (follower.signal.aborted) return;
  if (!followers.has(follower)) follower.signal.addEventListener("abort", () => followers.delete(follower));
  followers.add(follower);
  clearTimeout(timer);
  timer = setTimeout(connect, GATHER_MS);
}

/** @param {string} data @param {string} [encoding] */
export function bytesOf(data, encoding) {
  return encoding === "base64" ? Uint8Array.from(atob(data), (one) => one.charCodeAt(0)) : new TextEncoder().encode(data);
}

/** One stream of a command from its pieces, which may come twice, and never out of order: the last `most` characters.
 * @param {number} most @param {(missing: number) => string} gap */
export function createTail(most, gap) {
  const decoder = new TextDecoder();
  let end = 0;
  let shown = "";
  return (/** @type {Pick<Piece, "offset" | "data" | "encoding">} */ { offset, data, encoding }) => {
    const bytes = bytesOf(data, encoding);
    const missing = offset - end;
    if (missing > 0) shown += `${decoder.decode()}${shown && "\n"}${gap(missing)}\n`;
    shown += decoder.decode(bytes.subarray(Math.max(0, -missing)), { stream: true });
    shown = shown.slice(-most);
    end = Math.max(end, offset + bytes.length);
    return { text: shown, bytes: end };
  };
}

/** A page was opened; null: it shows nothing that could grow old. @param {?number} atMs */
export function opened(atMs) {
  state.openedAt = atMs ?? 0;
}

/** @param {(state: StreamState) => unknown} listener */
export function onState(listener) {
  listeners.add(listener);
}

/** The position that misses nothing of either: more than needed comes again, and changes nothing.
 * @param {string} one @param {string} other */
export function lower(one, other) {
  const second = other.match(/\d+/g) ?? [];
  return one.replace(/\d+/g, (first) => String(Math.min(Number(first), Number(second.shift()))));
}

export function createParser() {
  let rest = "";
  return (/** @type {string} */ piece) => {
    const parts = (rest + piece).split("\n\n");
    rest = parts.pop() ?? "";
    return parts.map(parseFrame);
  };
}

/** @param {string} part */
function parseFrame(part) {
  /** @param {string} name */
  const field = (name) => new RegExp(`^${name}: ?(.*)$`, "m").exec(part)?.[1];
  return { event: field("event") ?? "message", data: field("data") ?? "", id: field("id") ?? null };
}

/** @param {StreamState} state @param {number} nowMs @returns {{kind: string, n?: number, since?: number}} */
export function liveness({ openedAt, lastFrameAt, retryAt, isRefused, ping }, nowMs) {
  if (isRefused) return { kind: "refused" };
  const since = lastFrameAt || openedAt; // another page shows the same old rows
  if (!retryAt && nowMs - lastFrameAt <= SILENCE_MS) {
    return ping && ping.lag.seconds >= LAG_S ? { kind: "behind", n: ping.lag.events } : { kind: "live" };
  }
  if (since && nowMs - since > STALE_MS) return { kind: "offline", since };
  return retryAt ? { kind: "waiting", n: Math.max(0, Math.ceil((retryAt - nowMs) / 1000)) } : { kind: "connecting" };
}

/** @param {Partial<StreamState>} changes */
function tell(changes) {
  Object.assign(state, changes);
  for (const listener of listeners) listener(state);
}

export function connect() {
  clearTimeout(timer);
  timer = 0;
  controller?.abort();
  Object.assign(state, { retryAt: 0, isRefused: false });
  if (!followers.size || document.hidden) return;
  controller = new AbortController();
  read(controller.signal).then((isRefused) => isRefused || retryLater(), (error) => isAbort(error) || retryLater());
}

/** Whether all of it was refused: to ask once more would be recorded once more, and a page that is opened asks anew.
 * @param {AbortSignal} signal */
async function read(signal) {
  const topics = [...new Set([...followers].flatMap((follower) => follower.topics))].sort();
  const query = new URLSearchParams({ topics: topics.join(",") });
  if (lastId) query.set("after", lastId);
  const answer = await unlessSilent(fetch(`/api/v1/stream?${query}`, { signal, headers: { Accept: "text/event-stream", ...attendance() } }));
  if (!answer.ok) {
    if (answer.status === 401) await askToSignIn();
    else if (answer.status < 429 && !refuse() && answer.status === 403) {
      signal.throwIfAborted();
      tell({ isRefused: true });
      return true;
    }
    signal.throwIfAborted();
    throw new Error(`stream: ${answer.status}`);
  }
  const reader = /** @type {ReadableStream<BufferSource>} */ (answer.body).pipeThrough(new TextDecoderStream()).getReader();
  const parse = createParser();
  for (;;) {
    const { done, value } = await unlessSilent(reader.read());
    if (done) return false;
    for (const frame of parse(value)) handle(frame); // of one that is nonsense the stream ends, and is tried again
    failures = 0;
    tell({ lastFrameAt: Date.now() });
  }
}

/** What may be refused goes, if there is any. */
function refuse() {
  const before = followers.size;
  for (const follower of followers) if (follower.onRefused && followers.delete(follower)) follower.onRefused();
  return followers.size < before;
}

/** What comes, or another connection where nothing does for too long. @template T @param {Promise<T>} coming */
function unlessSilent(coming) {
  const silence = setTimeout(connect, SILENCE_MS);
  return coming.finally(() => clearTimeout(silence));
}

/** @param {ReturnType<typeof parseFrame>} frame */
function handle({ event, data, id }) {
  const body = JSON.parse(data);
  if (event === "rows") for (const [pos, row] of body.rows) put(body.table, pos, row);
  if (event === "usage") for (const [pos, hostname, at, cpu, memory, running, seldom] of body) store.refresh("hosts", hostname, pos, { last_heartbeat_at: at, cpu_usage: cpu, memory_usage: memory, running, ...seldom });
  if (event === "output") for (const { topics, onPiece } of followers) if (topics.includes(outputTopic(body))) onPiece?.(body);
  if (event === "output_end") end(body);
  if (event === "ping") state.ping = { ...body, offsetMs: Date.parse(body.now) - Date.now() };
  if (event === "reset") reset(body.topic);
  if (id && !timer) lastId = id;
}

/** It is not asked for any more: the server would only say so again. @param {Piece} body */
function end(body) {
  for (const follower of followers) {
    const left = follower.topics.filter((topic) => topic !== outputTopic(body));
    if (left.length === follower.topics.length) continue;
    follower.topics = left;
    follower.onEnd?.(body.hostname);
  }
}

/** Perhaps the log was put back: forget all that was told, also on other pages, and ask anew. Each topic is told so:
 * by the second there may be answers already. @param {string} topic */
function reset(topic) {
  if (lastId !== null) for (const table of TABLES) store.clear(table);
  lastId = null;
  for (const follower of followers) if (follower.topics.includes(topic)) follower.onReset?.();
}

function retryLater() {
  failures += 1;
  const waitMs = 1000 * Math.min(MOST_BACKOFF_S, 2 ** (failures - 1)) * (0.75 + Math.random() / 2);
  tell({ retryAt: Date.now() + waitMs });
  timer = setTimeout(connect, waitMs);
}

/** Times are told as they were at a moment. @param {?number} ms */
export const showMoment = (ms) => (pastMs = ms);

/** The server's time, as far as its last ping tells; of the past, the moment that is shown. */
export const now = () => pastMs ?? Date.now() + (state.ping?.offsetMs ?? 0);

export const isFollowed = () => followers.size > 0;

globalThis.document?.addEventListener("visibilitychange", () => {
  clearTimeout(hiddenTimer);
  if (document.hidden) hiddenTimer = setTimeout(() => controller?.abort(), HIDDEN_MS);
  else if (!controller || controller.signal.aborted) connect();
});
