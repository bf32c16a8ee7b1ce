// Text of hosts: colours are kept, other escape sequences dropped, and what would deceive the eye becomes a visible mark.

const ESCAPES = /\x1b\[([0-9;:]*)m|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]/g;
const HIDDEN = /([\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff])\1*/gu;
const PLAIN = { colour: null, bold: null, dim: null, underline: null }; // the classes of a piece
const CODES = { 0: PLAIN, 1: { bold: "bold" }, 2: { dim: "dim" }, 4: { underline: "underline" }, 22: { bold: null, dim: null }, 24: { underline: null } };

/** `[{text, classes}]`, with the class `mark` for what would not be seen. */
export function pieces(source) {
  const found = [];
  const style = { ...PLAIN };
  let at = 0;
  const lines = settled(source);
  for (const match of lines.matchAll(ESCAPES)) {
    add(found, lines.slice(at, match.index), style);
    if (match[1] !== undefined) apply(style, match[1]);
    at = match.index + match[0].length;
  }
  add(found, lines.slice(at), style);
  return found;
}

/** What stays of each line after its carriage returns. */
export function settled(source) {
  return source.split("\n").map(overwritten).join("\n");
}

// No regular expression: on a long line it would take the square of its length.
function overwritten(line) {
  let end = line.length;
  while (line[end - 1] === "\r") end -= 1;
  return line.slice(end ? line.lastIndexOf("\r", end - 1) + 1 : 0, end);
}

export function visible(source) {
  return pieces(source).map((piece) => piece.text).join("");
}

function add(found, text, style) {
  const classes = Object.values(style).filter(Boolean);
  let at = 0;
  for (const match of text.matchAll(HIDDEN)) {
    if (match.index > at) found.push({ text: text.slice(at, match.index), classes });
    const times = match[0].length > 1 ? ` ×${match[0].length}` : "";
    found.push({ text: `U+${match[1].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}${times}`, classes: ["mark"] });
    at = match.index + match[0].length;
  }
  if (at < text.length) found.push({ text: text.slice(at), classes });
}

function apply(style, codes) {
  const numbers = codes.split(/[;:]/).map(Number);
  for (let at = 0; at < numbers.length; at += 1) {
    const code = numbers[at];
    if (code === 38 || code === 48) at += numbers[at + 1] === 5 ? 2 : 4;
    else if (/^[39][0-79]$/.test(code)) style.colour = /[1-6]$/.test(code) ? `c${code % 10}` : null;
    else Object.assign(style, CODES[code]);
  }
}
