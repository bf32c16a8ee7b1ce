// The HTTP API: JSON in and out, one kind of error.
/** @import {Api, Ask, CallHow, Calls, Given, ProblemBody} from "./app.js" */
import { link, moment } from "./router.js";

const OF_A_MOMENT = /^\/(hosts|groups|tasks|projections)\b|^\/events$|^\/audit\/checkpoint$/; // there is `at`

/** As of RFC 9457. */
export class Problem extends Error {
  /** @param {number} status @param {ProblemBody} body */
  constructor(status, body) {
    super(body.detail || body.title || `HTTP ${status}`);
    this.status = status;
    this.code = body.code ?? "unreachable";
    this.errors = body.errors ?? [];
    this.requestId = body.request_id;
    this.body = body;
  }
}

/** @param {unknown} error */
export const isAbort = (error) => error instanceof Error && error.name === "AbortError";

const ATTENDED_MS = 60_000;
let touchedAt = Date.now();
for (const type of ["keydown", "pointerdown", "wheel"]) globalThis.addEventListener?.(type, () => (touchedAt = Date.now()), { capture: true, passive: true });

/** What is asked while nobody touches the page must not keep the session from being idle. @returns {Record<string, string>} */
export const attendance = () => (Date.now() - touchedAt > ATTENDED_MS ? { "X-Unattended": "1" } : {});

export let requests = 0; // that were made of the API

/** @type {?string} */
let csrfToken = null;
/** Asks the user, and resolves when that is done. @type {?Ask} */
let signIn = null;
/** @type {?Promise<unknown>} */
let asking = null; // one dialog for however many requests were refused

/** @param {?string} token */
export function setSession(token) {
  csrfToken = token;
}

/** @param {Ask} ask */
export function onSignedOut(ask) {
  signIn = ask;
}

export const isAsking = () => asking !== null;

/** The session has ended, or is too old for what was `refused`. @param {?Problem} [refused] */
export function askToSignIn(refused = null) {
  if (!signIn) throw new Error("nobody can be asked to sign in");
  asking ??= signIn(refused).finally(() => (asking = null));
  return asking;
}

/** @param {string} path @param {Given} [query] */
const asOf = (path, query) => (OF_A_MOMENT.test(path) ? { at: moment(), ...query } : query);

/** The calls of a page, which end with it, or `earlier`; `look` asks nobody to sign in. @param {AbortSignal} signal */
export const during = (signal) => typed({
  get: (path, query, earlier = signal) => call("GET", path, undefined, { query: asOf(path, query), signal: earlier }),
  look: (path) => call("GET", path, undefined, { signal, asksToSignIn: false }),
  post: (path, body = {}) => call("POST", path, body, { signal }),
  patch: (path, body) => call("PATCH", path, body, { signal }),
  remove: (path, body) => call("DELETE", path, body, { signal }),
  readiness: () => readiness(signal),
});

/** By its path each has a type of its own. @param {Calls} calls */
const typed = (calls) => /** @type {Api} */ (calls);

/** Those that no page ends. */
export const lasting = during(new AbortController().signal);

/** @type {Api["post"]} */
export const enter = (path, ...[body = {}]) => call("POST", path, body, { asksToSignIn: false });

/** What a path answers; `Api` says what that is.
 * @param {string} method @param {string} path @param {unknown} body @param {CallHow} how @returns {Promise<any>} */
async function call(method, path, body, { query, signal, asksToSignIn = true } = {}) {
  const answer = await request(method, link(`/api/v1${path}`, query), body, signal);
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const minutes = Math.ceil(Number(answer.headers.get("Retry-After")) / 60);
  const problem = new Problem(answer.status, { n: minutes, ...(await problemOf(answer)) });
  const isTooOld = problem.code === "sign_in_again";
  if (!asksToSignIn || !signIn || !(problem.code === "not_signed_in" || isTooOld)) throw problem; // a wrong password is another 401
  await askToSignIn(isTooOld ? problem : null);
  return call(method, path, body, { query, signal, asksToSignIn: false });
}

/** Not to be ready is an answer, too. @param {AbortSignal} signal */
async function readiness(signal) {
  const answer = await request("GET", "/readyz", undefined, signal);
  const body = await problemOf(answer);
  if (!body.checks) throw new Problem(answer.status, body);
  return body;
}

/** @param {string} method @param {string} url @param {unknown} body @param {AbortSignal} [signal] */
async function request(method, url, body, signal) {
  requests += 1;
  /** @type {Record<string, string>} */
  const headers = { Accept: "application/json", ...attendance() };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET" && csrfToken) headers["X-CSRF-Token"] = csrfToken;
  try {
    return await fetch(url, { method, headers, signal, body: JSON.stringify(body) });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new Problem(0, { code: "unreachable", detail: "The server cannot be reached." });
  }
}

/** @param {Response} answer */
async function problemOf(answer) {
  try {
    return await answer.json();
  } catch {
    return { title: answer.statusText };
  }
}
