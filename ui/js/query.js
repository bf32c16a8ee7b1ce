// The query of hosts, run over the rows that are here: `web state:offline,stale group:db -os:debian`. The server has the
// same grammar, and the same test vectors.
/** @import {Given, Host, Parsed, Term, Test} from "./app.js" */
import { HOST } from "./states.js";

const MOST_CHARACTERS = 1024;
const MOST_TERMS = 32;

/** As the server does, of ASCII letters alone. @param {string} text */
const lower = (text) => text.replace(/[A-Z]+/g, (letters) => letters.toLowerCase());

/** What matches a text as a whole, with `*` for any characters. It takes time in proportion to the text, whatever is asked.
 * @param {string} value @returns {(text: string) => boolean} */
function whole(value) {
  const [first, ...more] = value.split("*");
  const last = more.pop();
  if (last === undefined) return (text) => text === value;
  return (text) => {
    const end = text.length - last.length;
    let at = first.length;
    if (at > end || !text.startsWith(first) || !text.endsWith(last)) return false;
    for (const piece of more) {
      const found = text.indexOf(piece, at);
      if (found < 0 || found + piece.length > end) return false;
      at = found + piece.length;
    }
    return true;
  };
}

/** @param {string} value @param {(text: string) => boolean} plain */
const unlessGlob = (value, plain) => (value.includes("*") ? whole(value) : plain);
/** @param {"hostname" | "os" | "agent_version"} name @param {(text: string) => boolean} test @returns {Test} */
const said = (name, test) => (host) => host[name] != null && test(lower(host[name]));

/** @type {Record<string, Test>} */
const IS = {
  maintenance: (host) => host.maintenance,
  drift: (host) => host.drift,
  quarantined: (host) => host.quarantine != null,
  basic: (host) => host.basic,
};

/** What of a field says whether a host has a value; null: the value lacks something. `known`: there are no others.
 * @type {Record<string, {known?: string[], test(value: string): ?Test}>} */
const FIELDS = {
  name: { test: (value) => said("hostname", unlessGlob(value, (name) => name.includes(value))) },
  state: { known: Object.keys(HOST), test: (value) => (host) => host.state === value },
  group: {
    test(value) {
      const matches = whole(value);
      return (host) => host.groups.some((group) => matches(lower(group)));
    },
  },
  label: { test: labelled },
  os: { test: (value) => said("os", unlessGlob(value, (os) => os.includes(value))) },
  agent: { test: (value) => said("agent_version", unlessGlob(value, (version) => version.startsWith(value))) },
  is: { known: Object.keys(IS), test: (value) => IS[value] },
};

/** @param {string} value @returns {?Test} */
function labelled(value) {
  const [name, ...more] = value.split("=");
  if (!name || (more.length && !more.join("="))) return null;
  const matches = more.length ? whole(more.join("=")) : () => true;
  return ({ labels }) => Object.keys(labels).some((label) => lower(label) === name && matches(lower(labels[label])));
}

class Wrong extends Error {
  /** @param {string} reason @param {Given} given */
  constructor(reason, given = {}) {
    super(reason);
    this.given = given;
  }
}

const known = Object.keys(FIELDS).join(", ");

/** @param {string} term @returns {Term} */
function readTerm(term) {
  const isNegated = term.startsWith("-");
  const [, name, list] = /** @type {RegExpExecArray} */ (/^(?:([^:]*):)?(.*)$/su.exec(term.slice(isNegated ? 1 : 0)));
  if (name === "") throw new Wrong("no_field", { known });
  const field = lower(name ?? "name");
  if (!Object.hasOwn(FIELDS, field)) throw new Wrong("unknown_field", { field: name, known });
  const values = list.split(",");
  const tests = values.map((value) => (value ? FIELDS[field].test(lower(value)) : null));
  if (tests.includes(null)) throw new Wrong("no_value");
  const { known: choices } = FIELDS[field];
  const value = choices && values.find((one) => !choices.includes(lower(one)));
  if (value !== undefined) throw new Wrong("unknown_value", { value, field, known: choices?.join(", ") });
  return { term, field, isNegated, values: values.map(lower), test: (host) => tests.some((test) => test?.(host)) !== isNegated };
}

/** Its terms, all of which a host must match; or its first error: the term, where it stands, the key of a reason.
 * @param {string} query @returns {Parsed} */
export function parse(query = "") {
  /** @param {string} term @param {number} at @param {Wrong} wrong @returns {Parsed} */
  const wrong = (term, at, { message, given }) => ({ terms: null, error: { term, at, reason: message, given } });
  if ([...query].length > MOST_CHARACTERS) return wrong("", 0, new Wrong("too_long", { n: MOST_CHARACTERS }));
  const terms = [];
  for (const { 0: term, index } of query.matchAll(/\S+/g)) {
    try {
      if (terms.length === MOST_TERMS) throw new Wrong("too_many", { n: MOST_TERMS });
      terms.push(readTerm(term));
    } catch (error) {
      if (!(error instanceof Wrong)) throw error;
      return wrong(term, index, error);
    }
  }
  return { terms, error: null };
}

/** @param {Term[]} terms @param {Host} host */
export const matches = (terms, host) => terms.every(({ test }) => test(host));

/** Whether hosts in a state are asked for by its name. @param {Term[]} terms @param {string} state */
export const names = (terms, state) => terms.some(({ field, isNegated, values }) => field === "state" && !isNegated && values.includes(state));
