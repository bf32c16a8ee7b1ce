// Which page an address is, and what it says to it.
const ROUTES = [
  ["login", /^\/login$/],
  ["fleet", /^\/(?:hosts)?$/],
  ["host", /^\/hosts\/(?<hostname>[^/]+)$/],
  ["run", /^\/run$/],
  ["tasks", /^\/tasks$/],
  ["task", /^\/tasks\/(?<task_id>[^/]+)$/],
  ["audit", /^\/audit$/],
  ["system", /^\/system$/],
];

/** `{name, params}` of a path and a query; params has both. An unknown path is the fleet. */
export function match(path, search = "") {
  const query = Object.fromEntries(new URLSearchParams(search));
  for (const [name, pattern] of ROUTES) {
    const found = pattern.exec(path);
    if (found) {
      const parts = Object.entries(found.groups ?? {}).map(([key, value]) => [key, decodeURIComponent(value)]);
      return { name, params: { ...query, ...Object.fromEntries(parts) } };
    }
  }
  return { name: "fleet", params: query };
}

/** A path with a query, of which what is empty is left out. */
export function link(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const search = new URLSearchParams(given).toString();
  return path + (search && `?${search}`);
}

/** Only a path of ours, else the start page: nobody is sent elsewhere after signing in. */
export function safeNext(next) {
  return typeof next === "string" && /^\/(?![/\\])/.test(next) && !next.startsWith("/login") ? next : "/hosts";
}
