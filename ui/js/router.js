// Which page an address is, and what it says to it.
/** @import {Given, Params} from "./app.js" */
const PAGES = ["login", "fleet", "run", "tasks", "audit", "access", "system"];
const SINGLE = new Map([["hosts", ["host", "hostname"]], ["tasks", ["task", "task_id"]]]);
const HOSTNAMES = ["hostname", "host"];

/** @param {string} path @returns {{name: string, params: Params}} */
export function match(path, search = "") {
  /** A host is found by its name in capitals, too, and what is read of it has the name as it is. @param {[string, string]} given */
  const asItIs = ([key, value]) => [key, HOSTNAMES.includes(key) ? value.toLowerCase() : value];
  const query = Object.fromEntries(Array.from(new URLSearchParams(search), asItIs));
  const [, first, id, ...more] = path.split("/");
  const [name, key] = SINGLE.get(first) ?? [];
  const said = id && !more.length && decoded(id);
  if (name && said) return { name, params: { ...query, ...Object.fromEntries([asItIs([key, said])]) } };
  const page = !first || first === "hosts" ? "fleet" : first;
  return { name: id === undefined && PAGES.includes(page) ? page : "unknown", params: query };
}

/** Nothing of what is no text. @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}

/** The moment that everything is shown as of, a time or a position; null: as it is now. A document has no other of the two. */
export const moment = () => new URLSearchParams(globalThis.location?.search).get("at");

/** The same address, as of the same moment. @param {string} address */
export function inMoment(address, at = moment()) {
  const url = new URL(address, location.origin);
  if (at && !url.searchParams.has("at")) url.searchParams.set("at", at);
  return url.pathname + url.search;
}

/** Where one is, as of another moment; null: as it is now. @param {?string} at */
export function atMoment(at, address = location.href) {
  const url = new URL(address, location.origin);
  if (at === null) url.searchParams.delete("at");
  else url.searchParams.set("at", at);
  return url.pathname + url.search;
}

/** @param {string} path @param {Given} query */
export function link(path, query = {}) {
  const given = Object.entries(query).flatMap(([name, value]) => (value == null || value === "" ? [] : [[name, String(value)]]));
  const search = new URLSearchParams(given).toString();
  return path + (search && `?${search}`);
}

/** @param {string} name */
const part = (name) => encodeURIComponent(String(name).toWellFormed()); // half of a surrogate pair would be an error
/** @param {string} hostname @returns {`/hosts/${string}`} */
export const hostPath = (hostname) => `/hosts/${part(hostname)}`;
/** @param {string} taskId @returns {`/tasks/${string}`} */
export const taskPath = (taskId) => `/tasks/${part(taskId)}`;

/** Only a path of ours: nobody is sent elsewhere after signing in. @param {unknown} next */
export function safeNext(next) {
  return typeof next === "string" && /^\/(?![/\\])/.test(next) && !next.startsWith("/login") ? next : "/hosts";
}
