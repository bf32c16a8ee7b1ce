// The live stream of a visible tab, over fetch: EventSource hides the HTTP status and cannot resume at will.
import { askToSignIn } from "./api.js";
import * as store from "./store.js";

const SILENCE_MS = 12_000; // the server pings every five seconds
const STALE_MS = 30_000;
const LAG_S = 2;
const GATHER_MS = 50; // what begins to follow within this time shares one connection
const HIDDEN_MS = 3_000;
const MOST_BACKOFF_S = 30;

const followers = new Set(); // {topics, signal}, with onReset, or with what `watch` is given
const listeners = new Set();
let pastMs = null; // the moment that is shown instead of what is now
export const state = { openedAt: 0, lastFrameAt: 0, retryAt: 0, ping: null }; // times in ms, 0: never

let controller = null;
let lastId = null;
let failures = 0;
let timer = 0;
let hiddenTimer = 0;

const KEYS = { hosts: "hostname", tasks: "task_id", events: "seq", projections: "name" };

const TABLES = { hosts: ["hosts"], host: ["hosts", "executions"], tasks: ["tasks"], task: ["tasks", "executions"], events: ["events"] };

export function take(table, rows) {
  for (const row of rows) put(table, row.pos ?? row.seq, row);
}

const put = (table, pos, row) => store.put(table, row[KEYS[table]] ?? `${row.task_id}/${row.hostname}`, pos, row);

/** Follow topics from a position on. `onReset`: the server cannot go on from there. */
export function follow(topics, asOf, signal, onReset) {
  if ([...followers].some((one) => one.signal === signal && String(one.topics) === String(topics))) return;
  lastId = lastId === null ? asOf : lower(lastId, asOf);
  add({ topics, signal, onReset });
}

/** Follow what a task's commands print, which may be refused. Gives what says on which hosts from now on. */
export function watch(taskId, signal, { onPiece, onEnd, onRefused }) {
  const follower = { topics: [], signal, onPiece, onEnd, onRefused };
  return (hostnames) => {
    follower.topics = hostnames.map((hostname) => outputTopic({ task_id: taskId, hostname }));
    add(follower);
  };
}

const outputTopic = ({ task_id: taskId, hostname }) => `output:${taskId}:${hostname}`;

function add(follower) {
  if (follower.signal.aborted) return;
  if (!followers.has(follower)) follower.signal.addEventListener("abort", () => followers.delete(follower));
  followers.add(follower);
  clearTimeout(timer);
  timer = setTimeout(connect, GATHER_MS);
}

export function bytesOf(data, encoding) {
  return encoding === "base64" ? Uint8Array.from(atob(data), (one) => one.charCodeAt(0)) : new TextEncoder().encode(data);
}

/** One stream of a command from its pieces, which may come twice, and never out of order: the last `most` characters. */
export function createTail(most, gap) {
  const decoder = new TextDecoder();
  let end = 0;
  let shown = "";
  return ({ offset, data, encoding }) => {
    const bytes = bytesOf(data, encoding);
    const missing = offset - end;
    if (missing > 0) shown += `${decoder.decode()}${shown && "\n"}${gap(missing)}\n`;
    shown += decoder.decode(bytes.subarray(Math.max(0, -missing)), { stream: true });
    shown = shown.slice(-most);
    end = Math.max(end, offset + bytes.length);
    return { text: shown, bytes: end };
  };
}

/** A page was opened; null: it shows nothing that could grow old. */
export function opened(atMs) {
  state.openedAt = atMs ?? 0;
}

export function onState(listener) {
  listeners.add(listener);
}

/** The position that misses nothing of either: more than needed comes again, and changes nothing. */
export function lower(one, other) {
  const second = other.match(/\d+/g);
  return one.replace(/\d+/g, (first) => Math.min(first, second.shift()));
}

export function createParser() {
  let rest = "";
  return (piece) => {
    const parts = (rest + piece).split("\n\n");
    rest = parts.pop();
    return parts.map(parseFrame);
  };
}

function parseFrame(part) {
  const field = (name) => new RegExp(`^${name}: ?(.*)$`, "m").exec(part)?.[1];
  return { event: field("event") ?? "message", data: field("data") ?? "", id: field("id") ?? null };
}

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
  timer = clearTimeout(timer);
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

/** What comes, or another connection where nothing does for too long. */
function unlessSilent(coming) {
  const silence = setTimeout(connect, SILENCE_MS);
  return coming.finally(() => clearTimeout(silence));
}

function handle({ event, data, id }) {
  const body = JSON.parse(data);
  if (event === "rows") for (const [pos, row] of body.rows) put(body.table, pos, row);
  if (event === "usage") for (const [pos, hostname, at, cpu, memory] of body) store.refresh("hosts", hostname, pos, { last_heartbeat_at: at, cpu_usage: cpu, memory_usage: memory });
  if (event === "output") for (const { topics, onPiece } of followers) if (topics.includes(outputTopic(body))) onPiece?.(body);
  if (event === "output_end") end(body);
  if (event === "ping") state.ping = { ...body, offsetMs: Date.parse(body.now) - Date.now() };
  if (event === "reset") reset(body.topic);
  if (id && !timer) lastId = id;
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

/** Perhaps its log was put back: forget what is shown, and ask anew. */
function reset(topic) {
  lastId = null;
  for (const table of TABLES[topic.split(":")[0]] ?? []) store.clear(table);
  for (const follower of followers) if (follower.topics.includes(topic)) follower.onReset?.();
}

function retryLater() {
  failures += 1;
  const waitMs = 1000 * Math.min(MOST_BACKOFF_S, 2 ** (failures - 1)) * (0.75 + Math.random() / 2);
  tell({ retryAt: Date.now() + waitMs });
  timer = setTimeout(connect, waitMs);
}

/** Times are told as they were at a moment. */
export const showMoment = (ms) => (pastMs = ms);

/** The server's time, as far as its last ping tells; of the past, the moment that is shown. */
export const now = () => pastMs ?? Date.now() + (state.ping?.offsetMs ?? 0);

export const isFollowed = () => followers.size > 0;

globalThis.document?.addEventListener("visibilitychange", () => {
  clearTimeout(hiddenTimer);
  if (document.hidden) hiddenTimer = setTimeout(() => controller?.abort(), HIDDEN_MS);
  else if (!controller || controller.signal.aborted) connect();
});
