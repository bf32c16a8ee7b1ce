import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

globalThis.document = { documentElement: {} };
globalThis.fetch = async (address) => ({ json: async () => JSON.parse(await readFile(address)) });
const { because, load, told } = await import("../../../ui/js/i18n.js");
const { between, duration } = await import("../../../ui/js/format.js");

const refusal = (code, detail, more = {}) => ({ code, detail, errors: [], body: {}, ...more });

test("an error is told by its code in the user's language, with what the server names", async () => {
  await load("zh-CN");
  assert.equal(told(refusal("unreachable", "The server cannot be reached.")), "无法连接服务器。");
  assert.equal(told(refusal("unknown_host", "there is no host web9")), "没有这台主机。");
  assert.equal(told(refusal("unknown_host", "not registered: web8, web9")), "没有这台主机：web8, web9");
  const forbidden = refusal("not_allowed", "the role viewer does not have the permission tasks.run");
  assert.equal(told(forbidden), "您无权执行此操作：tasks.run");
  const changed = refusal("target_changed", "since the preview …", { body: { joined: ["web1"], left: [] } });
  assert.equal(told(changed), "预览之后目标有变化（加入：web1；离开：–）。");
});

test("how long to wait is told once", async () => {
  await load("en");
  const refused = refusal("too_many_logins", "too many tries to sign in; try again in 894 s", { body: { n: 15 } });
  assert.equal(told(refused), "Too many tries to sign in. Try again in 15 minutes.");
});

test("what is not valid is told with its fields, or as the server says it", async () => {
  await load("en");
  const errors = [{ field: "timeout", message: "too small" }, { field: "user", message: "unknown" }];
  const invalid = refusal("invalid_request", "timeout: too small", { errors });
  assert.equal(told(invalid), "The request is not valid: timeout: too small; user: unknown");
  assert.equal(told(refusal("invalid_request", "user is not a name")), "The request is not valid: user is not a name");
});

test("a term of a query that is not valid is told in the user's language, with what there is", async () => {
  await load("zh-CN");
  const said = (message) => told(refusal("invalid_request", message, { errors: [{ field: "q", message }] }));
  const known = "name, state, group";
  assert.equal(said(`is wrong in foo:x: unknown field foo; there are ${known}`), `请求无效：q: foo:x 有误：没有字段 foo；可用的有 ${known}`);
  assert.equal(said("is wrong in os:: a value is missing"), "请求无效：q: os: 有误：缺少值");
  assert.equal(said("is wrong: at most 1024 characters"), "请求无效：q: 有误：最多 1024 个字符");
});

test("what rules refuse is told with the hosts and the rules", async () => {
  await load("en");
  const body = { action: "tasks.run", hosts: ["db1"], more_hosts: 0, rules: ["0a1b"] };
  const refused = refusal("not_allowed", "tasks.run is not allowed on db1: rule 0a1b", { body });
  assert.equal(told(refused), "You may not do this: tasks.run is not allowed on db1: rule 0a1b");
});

test("a code without words is told in the server's own", async () => {
  await load("zh-CN");
  assert.equal(told(refusal("from_the_future", "no longer")), "no longer");
  assert.equal(told(new TypeError("not ours")), "not ours");
});

test("a cause of the control plane is told in the user's language, one that somebody wrote as it stands", async () => {
  await load("zh-CN");
  assert.equal(because("no heartbeat for 3 intervals of 5 s"), "连续 3 个 5 秒周期没有心跳");
  assert.equal(because("there is no account ada on this host"), "这台主机上没有账号 ada");
  assert.equal(because("no heartbeat for ever"), "no heartbeat for ever");
  assert.equal(because("toString"), "toString");
  assert.equal(because("ada may not run this any more: the user is disabled"), "ada 已无权执行：用户已停用");
  assert.equal(because("ada may not run this any more: no rule allows it"), "ada 已无权执行：没有规则允许");
  assert.equal(because("ada may not run this any more: rule 0a1b, 2c"), "ada 已无权执行：规则 0a1b, 2c");
  await load("en");
  assert.equal(because("a heartbeat came"), "a heartbeat came");
});

test("durations are short, in the user's language", async () => {
  await load("en");
  const seconds = [0.04, 1.5, 59.7, 61, 3599.6, 7500, 200_000].map((s) => duration(s * 1000));
  assert.deepEqual(seconds, ["0.04 s", "1.5 s", "1 min 0 s", "1 min 1 s", "1 h 0 min", "2 h 5 min", "2 d 7 h"]);
  assert.equal(between(null, "2026-01-02T03:04:05Z"), "");
  assert.equal(between("2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z"), "1.0 s");
  await load("zh-CN");
  assert.deepEqual([1500, 61_000, 7_500_000].map(duration), ["1.5 秒", "1 分 1 秒", "2 小时 5 分"]);
});
