// The HTTP API: JSON in and out, one kind of error.
import { link, moment } from "./router.js";

const OF_A_MOMENT = /^\/(hosts|groups|tasks|projections)\b|^\/events$/; // there is `at`

/** As of RFC 9457. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `HTTP ${status}`);
    this.status = status;
    this.code = body.code ?? "unreachable";
    this.errors = body.errors ?? [];
    this.requestId = body.request_id;
    this.body = body;
  }
}

export let requests = 0; // that were made of the API

let csrfToken = null;
let signIn = null; // asks the user, and resolves when that is done
let asking = null; // one dialog for however many requests were refused

export function setSession(token) {
  csrfToken = token;
}

export function onSignedOut(ask) {
  signIn = ask;
}

/** The session has ended, or is too old for what was `refused`. */
export function askToSignIn(refused) {
  asking ??= signIn(refused).finally(() => (asking = null));
  return asking;
}

const asOf = (path, query) => (OF_A_MOMENT.test(path) ? { at: moment(), ...query } : query);

/** The calls of a page, which end with it, or `earlier`; `look` asks nobody to sign in. */
export const during = (signal) => ({
  get: (path, query, earlier = signal) => call("GET", path, undefined, { query: asOf(path, query), signal: earlier }),
  look: (path) => call("GET", path, undefined, { signal, asksToSignIn: false }),
  post: (path, body = {}) => call("POST", path, body, { signal }),
  patch: (path, body) => call("PATCH", path, body, { signal }),
  remove: (path, body) => call("DELETE", path, body, { signal }),
  readiness: () => readiness(signal),
});

export const enter = (path, body = {}) => call("POST", path, body, { asksToSignIn: false });

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

/** Not to be ready is an answer, too. */
async function readiness(signal) {
  const answer = await request("GET", "/readyz", undefined, signal);
  const body = await problemOf(answer);
  if (!body.checks) throw new Problem(answer.status, body);
  return body;
}

async function request(method, url, body, signal) {
  requests += 1;
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET" && csrfToken) headers["X-CSRF-Token"] = csrfToken;
  try {
    return await fetch(url, { method, headers, signal, body: JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { code: "unreachable", detail: "The server cannot be reached." });
  }
}

async function problemOf(answer) {
  try {
    return await answer.json();
  } catch {
    return { title: answer.statusText };
  }
}
