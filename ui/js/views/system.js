// The system: whether it is ready, how far each read table has come, whether all is stopped.
import { ask, badge, reasonField, time, timeNode } from "../components.js";
import { attempt, create, every, permit, rowsOf, text } from "../dom.js";
import { duration } from "../format.js";
import { t } from "../i18n.js";

const CHECK_MS = 10_000;

export function mount(part, params, { api, store, stream, signal, user }) {
  const projections = rowsOf(part.projections, (row) => row.name, [
    (row, cell) => badge(cell, "projection", row.state),
    (row) => row.name,
    (row) => row.position,
    (row) => (row.lag_events ? `${row.lag_events} · ${duration(row.lag_seconds * 1000)}` : 0),
    (row) => row.parked,
  ]);
  const checks = rowsOf(part.checks, (row) => row.name, [
    (row, cell) => badge(cell, "check", row.state),
    (row) => row.name,
    (row, cell) => time(cell, row.since),
    (row) => row.detail,
  ]);
  const drawProjections = () => projections.draw(store.all("projections").sort((a, b) => (a.name < b.name ? -1 : 1)));

  async function readProjections() {
    const { items } = await api.get("/projections", { signal });
    for (const row of items) store.put("projections", row.name, 0, row);
    drawProjections();
    // All of them are told again and again, so any newest position does.
    stream.follow(["system"], items.find((row) => row.name === "hosts").position, signal, null);
  }

  async function readChecks() {
    const found = await api.readiness(signal);
    checks.draw(found.checks.sort((a, b) => (b.state === "failing") - (a.state === "failing")));
  }

  if (permit(part.stop, user, "stop.set")) part.stop.onclick = () => askStop("stop", (body) => api.post("/stop", body));
  const loadChecks = () => attempt(part.checks.parentElement, readChecks);
  store.subscribe(["projections"], drawProjections, signal);
  every(CHECK_MS, loadChecks, signal);
  loadChecks();
  attempt(part.projections.parentElement, readProjections);
}

async function askStop(way, send) {
  await ask({
    title: t(`stop.${way}`),
    body: t(`stop.${way}_what`),
    fields: [reasonField(true)],
    yes: t(`stop.${way}`),
    submit: send,
  });
  readStop();
}

let readStop = () => {};

export function followStop(banner, { api, signal, user }) {
  let drawn = null;

  readStop = async () => {
    const found = await api.get("/stop", { asksToSignIn: false }).catch(() => null);
    if (!found || found.seq === drawn) return;
    drawn = found.seq;
    banner.hidden = !found.stopped;
    const words = create("span");
    const lift = create("button", { textContent: t("stop.lift") });
    text(words, t("stop.banner", found));
    banner.replaceChildren(words, timeNode(found.since), lift);
    if (permit(lift, user, "stop.lift")) lift.onclick = () => askStop("lift", (body) => api.remove("/stop", body));
  };
  every(CHECK_MS, () => document.hidden || readStop(), signal);
  readStop();
}
