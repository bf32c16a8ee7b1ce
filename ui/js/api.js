// The HTTP API: JSON in and out, one kind of error.
const ROOT = "/api/v1";

/** What the server says went wrong (RFC 9457), or that it cannot be reached. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `HTTP ${status}`);
    this.status = status;
    this.code = body.code ?? "unreachable";
    this.title = body.title ?? "";
    this.detail = body.detail ?? this.message;
    this.errors = body.errors ?? [];
    this.requestId = body.request_id ?? "";
    this.body = body;
  }
}

let csrfToken = null;
let signIn = null; // asks the user to sign in again; resolves when that is done
let asking = null; // that, while it lasts: one dialog for however many requests were refused

export function setSession(token) {
  csrfToken = token;
}

export function onSignedOut(ask) {
  signIn = ask;
}

export function askToSignIn() {
  asking ??= signIn().finally(() => (asking = null));
  return asking;
}

export const get = (path, options) => call("GET", path, undefined, options);
export const post = (path, body = {}, options) => call("POST", path, body, options);
export const patch = (path, body, options) => call("PATCH", path, body, options);
export const put = (path, body, options) => call("PUT", path, body, options);
export const remove = (path, options) => call("DELETE", path, undefined, options);

async function call(method, path, body, { query, signal, asksToSignIn = true } = {}) {
  const answer = await request(method, address(path, query), body, signal);
  if (answer.status === 401 && asksToSignIn && signIn) {
    await askToSignIn();
    return call(method, path, body, { query, signal, asksToSignIn: false });
  }
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const minutes = Math.ceil(Number(answer.headers.get("Retry-After")) / 60);
  throw new Problem(answer.status, { n: minutes, ...(await problemOf(answer)) });
}

/** What the server says of its readiness; that it is not ready is an answer, too. */
export async function readiness(signal) {
  const answer = await request("GET", "/readyz", undefined, signal);
  const body = await problemOf(answer);
  if (!body.checks) throw new Problem(answer.status, body);
  return body;
}

function address(path, query) {
  const given = Object.entries(query ?? {}).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const search = new URLSearchParams(given).toString();
  return ROOT + path + (search && `?${search}`);
}

async function request(method, url, body, signal) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET" && csrfToken) headers["X-CSRF-Token"] = csrfToken;
  try {
    return await fetch(url, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
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
