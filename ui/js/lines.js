// What a host printed, line by line: to count, to search, and to draw a part of it.
/** @import {Match, Styled} from "./app.js" */
import { pieces, printed, settled } from "./ansi.js";

const COLOURS = /\x1b\[[0-9;:]*m/g;
const COLOURS_BEFORE = 100; // that may still hold where a part begins
const MOST_OF_LINE = 20_000; // characters that are drawn of one line
export const MOST_MATCHES = 10_000;

/** @param {string} source */
export function linesOf(source) {
  const lines = settled(source).split("\n");
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

/** As text, whose first and last character may be cut in two; null where it is none. @param {Uint8Array} data */
export function textOf(data) {
  let start = 0;
  while (start < Math.min(3, data.length) && (data[start] & 0xc0) === 0x80) start += 1;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(data.subarray(start), { stream: true });
  } catch {
    return null;
  }
}

/** All of it as it is seen, which is what is searched and copied. @param {string[]} lines */
export const seen = (lines) => printed(lines.join("\n"));

/** Where a text is in what is seen, whatever its case: in order. @param {string} text @param {string} query */
export function find(text, query) {
  if (!query) return [];
  const wanted = new RegExp(query.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "giu");
  /** @type {Match[]} */
  const found = [];
  let [line, start, end] = [0, 0, text.indexOf("\n")];
  for (const { 0: match, index } of text.matchAll(wanted)) {
    while (end !== -1 && end < index) {
      line += 1;
      start = end + 1;
      end = text.indexOf("\n", start);
    }
    found.push({ line, from: index - start, to: index - start + match.length });
    if (found.length === MOST_MATCHES) break;
  }
  return found;
}

/** The lines from one to before another, each as pieces in the colours that hold there.
 * @param {string[]} lines @param {number} from @param {number} to */
export function drawn(lines, from, to) {
  const before = lines.slice(0, from).join("\n").match(COLOURS)?.slice(-COLOURS_BEFORE).join("") ?? "";
  /** @type {Styled[][]} */
  const found = [[]];
  for (const { text, classes } of pieces(before + lines.slice(from, to).join("\n"))) {
    for (const [place, part] of text.split("\n").entries()) {
      if (place) found.push([]);
      if (part) found.at(-1)?.push({ text: part, classes });
    }
  }
  return found.map(shortened);
}

/** @param {Styled[]} parts */
function shortened(parts) {
  const found = [];
  let left = MOST_OF_LINE;
  for (const { text, classes } of parts) {
    if (left > 0) found.push({ text: text.slice(0, left), classes });
    left -= text.length;
  }
  return left < 0 ? [...found, { text: `… +${-left}`, classes: ["mark"] }] : found;
}

/** The pieces of a line, cut where what was found in it begins and ends; those of a match name it.
 * @param {Styled[]} parts @param {Match[]} matches */
export function marked(parts, matches) {
  /** @type {(Styled & {match?: Match})[]} */
  const found = [];
  let at = 0;
  for (const { text, classes } of parts) {
    let from = at;
    const end = at + text.length;
    for (const match of matches) {
      if (match.to <= from || match.from >= end) continue;
      const [start, stop] = [Math.max(match.from, from), Math.min(match.to, end)];
      if (start > from) found.push({ text: text.slice(from - at, start - at), classes });
      found.push({ text: text.slice(start - at, stop - at), classes, match });
      from = stop;
    }
    if (from < end) found.push({ text: text.slice(from - at), classes });
    at = end;
  }
  return found;
}
