// The system itself: whether it is ready, and how far each read table has come.
import { badge, time } from "../components.js";
import { attempt, keyedList, make, refs, text } from "../dom.js";
import { duration } from "../format.js";

const CHECK_MS = 10_000;

export function mount(root, params, context) {
  const { api, store, stream, signal, t, title } = context;
  title(t("shell.system"));
  const part = make("system");
  root.replaceChildren(part.root);

  function drawProjections() {
    const rows = store.all("projections").sort((a, b) => (a.name < b.name ? -1 : 1));
    keyedList(part.projections, rows, (row) => row.name, () => make("projection-row").root, (element, row) => {
      const cells = refs(element);
      text(cells.name, row.name);
      badge(cells.state, "projection", row.state);
      text(cells.position, row.position);
      text(cells.lag, row.lag_events ? `${row.lag_events} · ${duration(row.lag_seconds * 1000)}` : "0");
      text(cells.parked, String(row.parked));
    });
  }

  /** What fails is first. */
  function drawChecks({ checks }) {
    const rows = [...checks].sort((a, b) => (b.state === "failing") - (a.state === "failing"));
    keyedList(part.checks, rows, (row) => row.name, () => make("check-row").root, (element, row) => {
      const cells = refs(element);
      text(cells.name, row.name);
      badge(cells.state, "check", row.state);
      time(cells.since, row.since);
      text(cells.detail, row.detail);
    });
  }

  async function readProjections() {
    const { items } = await api.get("/projections", { signal });
    for (const row of items) store.put("projections", row.name, 0, row);
    drawProjections();
    // All of them are told again and again, so any newest position does.
    stream.follow(["system"], items.find((row) => row.name === "hosts").position, signal, null);
  }

  const loadChecks = () => attempt(part.readiness, async () => drawChecks(await api.readiness(signal)));

  store.subscribe(["projections"], drawProjections, signal);
  const timer = setInterval(loadChecks, CHECK_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  loadChecks();
  attempt(part.tables, readProjections);
}
