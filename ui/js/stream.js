// The live stream: one for a visible tab, over fetch, since EventSource hides the HTTP status and cannot resume at will.
import { askToSignIn } from "./api.js";
import * as store from "./store.js";

const SILENCE_MS = 12_000; // the server pings every five seconds
const STALE_MS = 30_000;
const LAG_S = 2;
const GATHER_MS = 50; // what begins to follow within this time shares one connection
const HIDDEN_MS = 3_000;
const MOST_BACKOFF_S = 30;

const followers = new Set(); // {topics, onReset}, or what `watch` makes
const listeners = new Set();
export const state = { openedAt: 0, lastFrameAt: 0, retryAt: 0, ping: null }; // times in ms, 0: never

let controller = null;
let lastId = null;
let failures = 0;
let timer = 0;
let hiddenTimer = 0;

const KEYS = {
  hosts: (row) => row.hostname,
  tasks: (row) => row.task_id,
  executions: (row) => `${row.task_id}/${row.hostname}`,
  events: (row) => row.seq,
  projections: (row) => row.name,
};

const TABLES = { hosts: ["hosts"], host: ["hosts", "executions"], tasks: ["tasks"], task: ["tasks", "executions"], events: ["events"] };

export function keyOf(table, row) {
  return KEYS[table](row);
}

/** Take the rows of an answer in. */
export function take(table, rows) {
  for (const row of rows) store.put(table, keyOf(table, row), row.pos ?? row.seq, row);
}

/**
 * Follow topics from a position on, until the signal ends it. `onReset` is called where the server cannot go on from
 * that position: fetch again.
 */
export function follow(topics, asOf, signal, onReset) {
  lastId = lastId === null ? asOf : lower(lastId, asOf);
  const follower = { topics, onReset };
  signal.addEventListener("abort", () => followers.delete(follower));
  add(follower);
}

/**
 * Follow what a task's commands print: a preview, without which the rest goes on where it is `onRefused`. `onPiece` gets
 * each piece, `onEnd` the hostname where it has ended. The function that this gives says on which hosts from now on.
 */
export function watch(taskId, signal, { onPiece, onEnd, onRefused }) {
  const follower = { topics: [], onPiece, onEnd, onRefused };
  signal.addEventListener("abort", () => followers.delete(follower));
  return (hostnames) => {
    follower.topics = hostnames.map((hostname) => outputTopic({ task_id: taskId, hostname }));
    if (!signal.aborted) add(follower);
  };
}

const outputTopic = ({ task_id: taskId, hostname }) => `output:${taskId}:${hostname}`;

function add(follower) {
  followers.add(follower);
  clearTimeout(timer);
  timer = setTimeout(connect, GATHER_MS);
}

/** The bytes of what a host printed, as an answer of the server has them. */
export function bytesOf(data, encoding) {
  return encoding === "base64" ? Uint8Array.from(atob(data), (one) => one.charCodeAt(0)) : new TextEncoder().encode(data);
}

/**
 * One stream of a command put together from its pieces. The function that it gives takes a piece, and answers with the
 * last `most` characters as `text`, and how many `bytes` have been printed; `gap` says in words how many bytes are
 * missing. Pieces may come twice, and never out of order.
 */
export function createTail(most, gap) {
  const decoder = new TextDecoder();
  let end = null;
  let shown = "";
  return ({ offset, data, encoding }) => {
    const bytes = bytesOf(data, encoding);
    const missing = offset - (end ?? 0);
    if (missing > 0) shown += `${decoder.decode()}${shown && "\n"}${gap(missing)}\n`;
    shown += decoder.decode(bytes.subarray(Math.max(0, -missing)), { stream: true });
    end = Math.max(end ?? 0, offset + bytes.length);
    shown = shown.slice(-most);
    return { text: shown, bytes: end };
  };
}

/** A page is opened, and reads what it shows; null for one that shows nothing that could grow old. */
export function opened(atMs) {
  state.openedAt = atMs ?? 0;
}

export function onState(listener) {
  listeners.add(listener);
}

/** The position that misses nothing of either: more than needed comes again, and changes nothing. */
export function lower(one, other) {
  const [first, second] = [one, other].map((text) => text.match(/\d+/g).map(Number));
  let place = 0;
  return one.replace(/\d+/g, () => String(Math.min(first[place], second[place++])));
}

/** Frames of server-sent events from pieces of text; `feed` returns those that are complete. */
export function createParser() {
  let rest = "";
  return (piece) => {
    rest += piece;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    return parts.map(parseFrame);
  };
}

function parseFrame(part) {
  const frame = { event: "message", data: "", id: null };
  for (const line of part.split("\n")) {
    const colon = line.indexOf(":");
    if (colon <= 0) continue;
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (line.startsWith("event:")) frame.event = value;
    if (line.startsWith("data:")) frame.data += value;
    if (line.startsWith("id:")) frame.id = value;
  }
  return frame;
}

/** How live a page is at a time: `{kind}`, with the number or the time that its words have. */
export function liveness({ openedAt, lastFrameAt, retryAt, ping }, nowMs) {
  const since = lastFrameAt || openedAt; // another page shows the same old rows
  if (!retryAt && nowMs - lastFrameAt <= SILENCE_MS) {
    return ping?.lag.seconds >= LAG_S ? { kind: "behind", n: ping.lag.events } : { kind: "live" };
  }
  if (since && nowMs - since > STALE_MS) return { kind: "offline", since };
  return retryAt ? { kind: "waiting", n: Math.max(0, Math.ceil((retryAt - nowMs) / 1000)) } : { kind: "connecting" };
}

function tell(changes) {
  Object.assign(state, changes);
  for (const listener of listeners) listener(state);
}

export function connect() {
  clearTimeout(timer);
  controller?.abort();
  state.retryAt = 0;
  if (!followers.size || document.hidden) return;
  controller = new AbortController();
  read(controller.signal).then(retryLater, (error) => error.name !== "AbortError" && retryLater());
}

async function read(signal) {
  const topics = [...new Set([...followers].flatMap((follower) => follower.topics))].sort();
  const query = new URLSearchParams({ topics: topics.join(",") });
  if (lastId) query.set("after", lastId);
  const answer = await unlessSilent(fetch(`/api/v1/stream?${query}`, { signal, headers: { Accept: "text/event-stream" } }));
  if (!answer.ok) {
    if (answer.status === 401) await askToSignIn();
    else if (answer.status < 429) refuse();
    signal.throwIfAborted();
    throw new Error(`stream: ${answer.status}`);
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const parse = createParser();
  for (;;) {
    const { done, value } = await unlessSilent(reader.read());
    if (done) return;
    failures = 0;
    for (const frame of parse(value)) handle(frame);
    tell({ lastFrameAt: Date.now() });
  }
}

function refuse() {
  for (const follower of followers) if (follower.onRefused && followers.delete(follower)) follower.onRefused();
}

/** What comes, unless nothing does for too long: then another connection is tried in place of this one. */
function unlessSilent(coming) {
  const silence = setTimeout(connect, SILENCE_MS);
  return coming.finally(() => clearTimeout(silence));
}

function handle({ event, data, id }) {
  const body = JSON.parse(data);
  if (event === "rows") for (const [pos, row] of body.rows) store.put(body.table, keyOf(body.table, row), pos, row);
  if (event === "usage") for (const [pos, hostname, at, cpu, memory] of body) store.refresh("hosts", hostname, pos, { last_heartbeat_at: at, cpu_usage: cpu, memory_usage: memory });
  if (event === "output") for (const { topics, onPiece } of followers) if (topics.includes(outputTopic(body))) onPiece?.(body);
  if (event === "output_end") end(body);
  if (event === "ping") state.ping = { ...body, offsetMs: Date.parse(body.now) - Date.now() };
  if (event === "reset") reset(body.topic);
  if (id) lastId = id;
}

/** It is not asked for any more: the server would only say so again. */
function end(body) {
  for (const follower of followers) {
    const left = follower.topics.filter((topic) => topic !== outputTopic(body));
    if (left.length === follower.topics.length) continue;
    follower.topics = left;
    follower.onEnd?.(body.hostname);
  }
}

/** The server cannot go on from where we are, perhaps because its log was put back: forget what is shown, and ask anew. */
function reset(topic) {
  lastId = null;
  const [name] = topic.split(":");
  for (const table of TABLES[name] ?? []) store.clear(table);
  for (const follower of followers) if (follower.topics.includes(topic)) follower.onReset?.();
}

function retryLater() {
  failures += 1;
  const waitS = Math.min(MOST_BACKOFF_S, 2 ** (failures - 1)) * (0.75 + Math.random() / 2);
  tell({ retryAt: Date.now() + waitS * 1000 });
  timer = setTimeout(connect, waitS * 1000);
}

/** The server's time, as far as its last ping tells. */
export function now() {
  return Date.now() + (state.ping?.offsetMs ?? 0);
}

globalThis.document?.addEventListener("visibilitychange", () => {
  clearTimeout(hiddenTimer);
  if (document.hidden) hiddenTimer = setTimeout(() => controller?.abort(), HIDDEN_MS);
  else if (!controller || controller.signal.aborted) connect();
});
