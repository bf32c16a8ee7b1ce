import assert from "node:assert/strict";
import { mock, test } from "node:test";

const touched = {};
globalThis.addEventListener = (type, listener) => (touched[type] = listener);
const { during, isAsking, onSignedOut } = await import("../../../ui/js/api.js");
const { every } = await import("../../../ui/js/dom.js");
const { post } = during(new AbortController().signal);

let answers = [];
let asked = [];
let sent = {};
globalThis.fetch = async (url, { method, headers }) => {
  asked.push(`${method} ${url}`);
  sent = headers;
  const [status, body] = answers.shift();
  return { ok: status < 400, status, headers: new Map(), json: async () => body };
};

function server(...next) {
  answers = next;
  asked = [];
}

const again = [403, { code: "sign_in_again", detail: "sign in again" }];

test("what needs a session of just now is asked once more after signing in, and one question is enough for all", async () => {
  let questions = 0;
  onSignedOut(async (refused) => {
    assert.equal(refused.code, "sign_in_again");
    questions += 1;
    await new Promise((resolve) => setTimeout(resolve));
  });
  server(again, again, [201, { seq: 1 }], [201, { seq: 2 }]);
  assert.deepEqual(await Promise.all([post("/users", {}), post("/users", {})]), [{ seq: 1 }, { seq: 2 }]);
  assert.equal(questions, 1);
  assert.equal(asked.length, 4);
});

test("it is asked once more only once, and stays refused where nobody signs in", async () => {
  onSignedOut(async () => {});
  server(again, again);
  await assert.rejects(post("/users", {}), { code: "sign_in_again" });
  onSignedOut(async (refused) => {
    throw refused;
  });
  server(again);
  await assert.rejects(post("/users", {}), { code: "sign_in_again" });
  assert.deepEqual(asked, ["POST /api/v1/users"]);
});

test("a session that has ended is asked for, a wrong password is only told", async () => {
  let questions = 0;
  onSignedOut(async (refused) => {
    assert.equal(refused, null);
    questions += 1;
  });
  server([401, { code: "not_signed_in" }], [200, { seq: 3 }]);
  assert.deepEqual(await post("/tasks", {}), { seq: 3 });
  server([401, { code: "login_failed", detail: "user or password is wrong" }]);
  await assert.rejects(post("/auth/password", {}), { code: "login_failed" });
  assert.equal(questions, 1);
});

test("what a page asks a minute after it was touched says that nobody is there", async () => {
  mock.timers.enable({ apis: ["Date"], now: Date.now() });
  const isAlone = async () => {
    server([200, {}]);
    await during(new AbortController().signal).look("/stop");
    return "X-Unattended" in sent;
  };
  for (const type of ["keydown", "pointerdown", "wheel"]) {
    touched[type]();
    mock.timers.tick(60_000);
    assert.equal(await isAlone(), false);
    mock.timers.tick(1);
    assert.equal(await isAlone(), true);
  }
  mock.timers.reset();
});

test("while one is asked to sign in, nothing is asked again and again", async () => {
  mock.timers.enable({ apis: ["setInterval"] });
  let signedIn;
  let times = 0;
  onSignedOut(() => new Promise((resolve) => (signedIn = resolve)));
  server([401, { code: "not_signed_in" }], [200, {}]);
  every(10, () => (times += 1), new AbortController().signal);
  mock.timers.tick(10);
  const answer = post("/tasks", {});
  while (!isAsking()) await new Promise(setImmediate);
  mock.timers.tick(100);
  assert.equal(times, 1);
  signedIn();
  await answer;
  mock.timers.tick(10);
  assert.equal(times, 2);
  mock.timers.reset();
});
