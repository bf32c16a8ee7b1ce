// What the benchmark of the pages measures in the page itself: put in before the page's own modules.
(() => {
  const found = (globalThis.bench = { longTasks: [], shift: 0, slowest: 0, firstRow: null });
  const observe = (type, take, more = {}) => new PerformanceObserver((list) => list.getEntries().forEach(take)).observe({ type, buffered: true, ...more });
  observe("longtask", ({ duration }) => found.longTasks.push(duration));
  observe("layout-shift", ({ value, hadRecentInput }) => (found.shift += hadRecentInput ? 0 : value));
  observe("event", ({ duration }) => (found.slowest = Math.max(found.slowest, duration)), { durationThreshold: 16 });

  /** After the next frame has been handed over: the first task after its callbacks. */
  found.painted = () =>
    new Promise((resolve) =>
      requestAnimationFrame(() => {
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = () => resolve(performance.now());
        port2.postMessage(null);
      }),
    );

  const module = (name) => import(document.querySelector("script[type=module]").src.replace("main.js", `${name}.js`));
  let store = null;
  found.store = async () => (store ??= await module("store"));
  found.stream = () => module("stream");

  const watch = async () => {
    if (document.querySelector("main tbody tr, main canvas")) found.firstRow = await found.painted();
    else requestAnimationFrame(watch);
  };
  requestAnimationFrame(watch);

  /** When the store has so many rows of a table and they have been drawn. */
  found.whenHas = async (table, count) => {
    const store = await found.store();
    while (store.all(table).length < count) await new Promise(requestAnimationFrame);
    return found.painted();
  };

  /** ms from each of `rounds` changes to its paint. */
  found.rounds = async (rounds, change) => {
    const times = [];
    for (let round = 0; round < rounds; round += 1) {
      await new Promise((resolve) => setTimeout(resolve, 20)); // what the last one left behind
      const before = performance.now();
      await change(round);
      times.push((await found.painted()) - before);
    }
    return times;
  };

  /** ms of script of each of `rounds` changes: its own, and that of the frame which draws it. */
  found.script = async (rounds, change) => {
    const now = () => new Promise((resolve) => requestAnimationFrame(() => resolve(performance.now())));
    const times = [];
    for (let round = 0; round < rounds; round += 1) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      const start = now(); // what is asked for first comes first in the frame
      const before = performance.now();
      change(round);
      const changed = performance.now() - before;
      const end = now();
      times.push((await end) - (await start) + changed);
    }
    return times;
  };

  /** What rows of hosts become that change: another state, and a newer position. At once: the store has been asked for before. */
  found.changeHosts = (count, state) => {
    const rows = store.all("hosts").slice(0, count);
    for (const row of rows) store.put("hosts", row.hostname, row.pos + (found.age = (found.age ?? 0) + 1), { ...row, state });
  };

  /** ms from the end of each task, by the server's clock, to its paint, by the same machine's. */
  found.followEnds = async () => {
    const store = await found.store();
    const seen = new Set(store.all("tasks").map((task) => task.task_id));
    found.ends = [];
    store.subscribe(
      ["tasks"],
      async () => {
        const ended = store.all("tasks").filter((task) => task.state === "finished" && !seen.has(task.task_id));
        for (const task of ended) seen.add(task.task_id);
        if (!ended.length) return;
        const at = performance.timeOrigin + (await found.painted());
        for (const task of ended) found.ends.push(at - Date.parse(task.finished_at));
      },
      new AbortController().signal,
    );
  };
})();
