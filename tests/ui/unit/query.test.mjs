import assert from "node:assert/strict";
import { test } from "node:test";

import VECTORS from "../../vectors/query.json" with { type: "json" };
import WORDS from "../../../ui/i18n/en.json" with { type: "json" };

import { matches, names, parse } from "../../../ui/js/query.js";

const words = ({ reason, given }) => WORDS[`query.${reason}`].replace(/\{(\w+)\}/g, (_, name) => given[name]);

test("a query matches the hosts that it matches on the server", () => {
  for (const { q, matches: wanted } of VECTORS.queries.filter((one) => one.matches)) {
    const { terms, error } = parse(q);
    assert.equal(error, null, q);
    assert.deepEqual(VECTORS.hosts.filter((host) => matches(terms, host)).map((host) => host.hostname), wanted, q);
  }
});

test("what is wrong with a query is said as on the server, with the term and where it stands", () => {
  for (const { q, error: wanted } of VECTORS.queries.filter((one) => one.error)) {
    const { terms, error } = parse(q);
    assert.equal(terms, null, q);
    assert.deepEqual({ term: error.term, reason: words(error) }, wanted, q);
    assert.equal(q.slice(error.at, error.at + error.term.length), error.term);
  }
});

test("a query that names a state asks for it, unless it is negated", () => {
  const asks = (query) => names(parse(query).terms, "retired");
  assert.deepEqual(["web", "state:retired", "STATE:online,Retired", "-state:retired", "name:retired"].map(asks), [false, true, true, false, false]);
});

test("a pattern full of stars takes no time", () => {
  const { terms } = parse(`${"*a".repeat(500)}*b`);
  const host = { hostname: "a".repeat(253) };
  const before = performance.now();
  for (let round = 0; round < 1000; round += 1) assert.equal(matches(terms, host), false);
  assert.ok(performance.now() - before < 1000);
});
