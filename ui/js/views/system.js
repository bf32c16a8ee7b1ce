// Whether it is ready, how far each read table has come, whether all is stopped.
import { rowsOf } from "../components.js";
import { attempt, every, permit } from "../dom.js";
import { duration } from "../format.js";
import { t } from "../i18n.js";
import { askStop } from "../notices.js";
import { by } from "../states.js";

const CHECK_MS = 10_000;

export function mount(part, params, { api, store, stream, signal, user }) {
  const lag = (row) => (row.lag_events ? `${row.lag_events} · ${duration(row.lag_seconds * 1000)}` : 0);
  const projections = rowsOf(part.projections, "name", { lag });
  const checks = rowsOf(part.checks, "name");
  const drawProjections = () => projections.draw(store.all("projections").sort(by("name")));

  async function readProjections() {
    const { items } = await api.get("/projections");
    for (const row of items) store.put("projections", row.name, 0, row);
    drawProjections();
    // All of them are told again and again, so any newest position does.
    stream.follow(["system"], items.find((row) => row.name === "hosts").position, signal, null);
  }

  async function readChecks() {
    const found = await api.readiness();
    checks.draw(found.checks.sort((a, b) => (b.state === "failing") - (a.state === "failing")));
  }

  if (permit(part.stop, user, "stop.set")) part.stop.onclick = () => askStop("stop.stop", (body) => api.post("/stop", body));
  const drawStop = () => (part.stop.hidden = store.one("stop", "")?.stopped);
  const loadChecks = () => attempt(part.checks.parentElement, readChecks);
  store.subscribe(["projections"], drawProjections, signal);
  store.subscribe(["stop"], drawStop, signal);
  store.subscribe(["stop"], loadChecks, signal);
  drawStop();
  every(CHECK_MS, loadChecks, signal);
  loadChecks();
  attempt(part.projections.parentElement, readProjections);
}
