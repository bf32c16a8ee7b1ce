// Which page an address is, and what it says to it.
const ROUTES = [
  ["login", /^\/login$/],
  ["fleet", /^\/(?:hosts)?$/],
  ["host", /^\/hosts\/(?<hostname>[^/]+)$/],
  ["run", /^\/run$/],
  ["tasks", /^\/tasks$/],
  ["task", /^\/tasks\/(?<task_id>[^/]+)$/],
  ["audit", /^\/audit$/],
  ["access", /^\/access$/],
  ["system", /^\/system$/],
];

export function match(path, search = "") {
  const query = Object.fromEntries(new URLSearchParams(search));
  for (const [name, pattern] of ROUTES) {
    const found = pattern.exec(path);
    if (!found) continue;
    const parts = Object.entries(found.groups ?? {}).map(([key, value]) => [key, decodeURIComponent(value)]);
    return { name, params: { ...query, ...Object.fromEntries(parts) } };
  }
  return { name: "fleet", params: query };
}

export function link(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const search = new URLSearchParams(given).toString();
  return path + (search && `?${search}`);
}

// Of pages and API alike.
export const hostPath = (hostname) => `/hosts/${encodeURIComponent(hostname)}`;
export const taskPath = (taskId) => `/tasks/${encodeURIComponent(taskId)}`;

/** Only a path of ours: nobody is sent elsewhere after signing in. */
export function safeNext(next) {
  return typeof next === "string" && /^\/(?![/\\])/.test(next) && !next.startsWith("/login") ? next : "/hosts";
}
