// The line for a shell: what a shell makes of it is what was typed, whatever that is.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";

import { cpctlLine, filled, quoted, setLine } from "../../../ui/js/commandline.js";

const wordsOf = (line) => execFileSync("sh", ["-c", `printf '%s\\0' ${line}`], { encoding: "utf8" }).split("\0").slice(0, -1);
const ONCE = { target: { host: "web1" }, command: "uptime", user: "root", timeout: 30, when_offline: "queue" };

test("a line has all that was asked for, and nothing that was not", () => {
  assert.equal(cpctlLine(ONCE), "cpctl run -t web1 -u root --timeout 30 -- uptime");
  const rollout = { max_concurrency: "10%", max_errors: 0, canary: ["web1", "web2"], wait: "approve" };
  const all = { ...ONCE, target: { query: "web -is:drift os:'x'" }, command: "echo 'a' | wc", reason: "new kernel", expires_in: 60, when_offline: "skip", rollout };
  assert.deepEqual(wordsOf(cpctlLine(all)), [
    ...["cpctl", "run", "-t", "q:web -is:drift os:'x'", "-u", "root", "--timeout", "30", "--expires-in", "60", "--batch", "10%"],
    ...["--max-failures", "0", "--canary", "web1,web2", "--canary-wait", "approve", "--reason", "new kernel", "--skip-offline", "--", "echo 'a' | wc"],
  ]);
});

test("every kind of target has its word", () => {
  const where = (target) => wordsOf(cpctlLine({ ...ONCE, target }))[3];
  assert.deepEqual([{ host: "web1" }, { hosts: ["web1", "web2"] }, { group: "web" }, { all: true }, { query: "*" }].map(where), ["web1", "web1,web2", "group:web", "all", "q:*"]);
});

test("a template is named with its parameters, in place of a command", () => {
  const request = { target: { group: "web" }, template: "restart", parameters: { unit: "it's", times: 3 }, when_offline: "queue" };
  assert.deepEqual(wordsOf(cpctlLine(request)), ["cpctl", "run", "-t", "group:web", "--template", "restart", "-p", "unit=it's", "-p", "times=3"]);
  assert.equal(filled(["systemctl", "restart", "{unit}", "{nothing}"], { unit: "a b" }), "systemctl restart 'a b' '{nothing}'");
});

test("what begins with a dash is no flag of its own", () => {
  const words = wordsOf(cpctlLine({ ...ONCE, user: "-x", reason: "-y z", command: "-v" }));
  assert.deepEqual(words, ["cpctl", "run", "-t", "web1", "-u-x", "--timeout", "30", "--reason=-y z", "--", "-v"]);
});

test("a shell makes of a quoted word what it was", () => {
  for (const word of ["a", "a b", "", "'", "''", "\"", "$HOME", "`id`", "a\nb", "\\", "*", "~", "!x", "#", "-- ;", "é", "a'b\"c$d\\", "q:web state:online"]) {
    assert.deepEqual(wordsOf(quoted(word)), [word]);
  }
});

test("a change of a host says what is added and what goes, and of what stays nothing", () => {
  const before = { groups: ["web", "eu"], labels: { rack: "r7", owner: "me", site: "a" } };
  const wanted = { groups: ["eu", "db"], labels: { rack: "r7", owner: "it's me" } };
  assert.deepEqual(wordsOf(setLine("web1", before, wanted)), ["cpctl", "hosts", "set", "web1", "--group", "db", "--group=-web", "--label", "owner=it's me", "--label=-site"]);
  assert.equal(setLine("web1", before, before), "cpctl hosts set web1");
});
