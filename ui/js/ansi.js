// What would deceive the eye becomes a visible mark; of what hosts write, colours are kept and other sequences dropped.

/** @import {Style, Styled} from "./app.js" */
const ESCAPES = /\x1b\[([0-9;:]*)m|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]/g;
const HIDDEN = /((?![\t\n\ufe0f])[\p{C}\p{DI}\p{Zl}\p{Zp}])\1*/gu; // but what makes an emoji
const UNSEEN = /((?! )[\p{C}\p{Z}\p{DI}\u2800])\1*/gu; // all that is not seen as what it is
/** @type {Style} */
const PLAIN = { colour: null, bold: null, dim: null, underline: null };
/** @type {Record<string, Partial<Style>>} */
const CODES = { 0: PLAIN, 1: { bold: "bold" }, 2: { dim: "dim" }, 4: { underline: "underline" }, 22: { bold: null, dim: null }, 24: { underline: null } };

/** What a host wrote, with the class `mark` for what would not be seen. @param {string} source */
export function pieces(source) {
  /** @type {Styled[]} */
  const found = [];
  const style = { ...PLAIN };
  let at = 0;
  const lines = settled(source);
  for (const { 0: escape, 1: codes, index } of [...lines.matchAll(ESCAPES), { 0: "", 1: undefined, index: lines.length }]) {
    add(found, lines.slice(at, index), Object.values(style).filter((one) => one !== null));
    if (codes !== undefined) apply(style, codes);
    at = index + escape.length;
  }
  return found;
}

/** @param {string} source */
export function settled(source) {
  return source.split("\n").map(overwritten).join("\n");
}

/** No regular expression: on a long line it would take the square of its length. @param {string} line */
function overwritten(line) {
  let end = line.length;
  while (line[end - 1] === "\r") end -= 1;
  return line.slice(end ? line.lastIndexOf("\r", end - 1) + 1 : 0, end);
}

/** What somebody wants run: nothing of it is interpreted, and line ends are marked. @param {string} source */
export const exactly = (source) => add([], source, [], UNSEEN);

/** @param {Styled[]} found */
const wordsOf = (found) => found.map((piece) => piece.text).join("");
/** @param {string} source */
export const exact = (source) => wordsOf(exactly(source));
/** @param {unknown} value */
export const json = (value) => exact(JSON.stringify(value ?? undefined) ?? "");
/** @param {string} source */
export const printed = (source) => wordsOf(pieces(source));
/** @param {unknown} source */
export const visible = (source) => wordsOf(add([], String(source ?? "")));

/** @param {Styled[]} found @param {string} text @param {string[]} classes */
function add(found, text, classes = [], unseen = HIDDEN) {
  let at = 0;
  for (const { 0: run, index } of text.matchAll(unseen)) {
    if (index > at) found.push({ text: text.slice(at, index), classes });
    const times = [...run].length;
    found.push({ text: `U+${Number(run.codePointAt(0)).toString(16).toUpperCase().padStart(4, "0")}${times > 1 ? ` ×${times}` : ""}`, classes: ["mark"] });
    if (run[0] === "\n") found.push({ text: "\n", classes });
    at = index + run.length;
  }
  if (at < text.length) found.push({ text: text.slice(at), classes });
  return found;
}

/** @param {Style} style @param {string} codes */
function apply(style, codes) {
  const numbers = codes.split(/[;:]/).map(Number);
  for (let at = 0; at < numbers.length; at += 1) {
    const code = numbers[at];
    if (code === 38 || code === 48) at += numbers[at + 1] === 5 ? 2 : 4;
    else if (/^[39][0-79]$/.test(`${code}`)) style.colour = /[1-6]$/.test(`${code}`) ? `c${code % 10}` : null;
    else Object.assign(style, CODES[code]);
  }
}
