// Text of hosts as pieces to show: colours are kept, every other escape sequence is dropped, and what would deceive the
// eye (control characters, marks that turn the direction of text) becomes a visible mark.

const ESCAPES = /\x1b\[([0-9;:]*)m|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]/g;
const HIDDEN = /([\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff])\1*/gu;

/** `[{text, classes}]`; a piece with the class `mark` stands for characters that would not be seen. */
export function pieces(source) {
  const found = [];
  const style = { colour: null, bold: false, dim: false, underline: false };
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

/** The same in one line, for a table: marks for what would deceive, no colours. */
export function visible(source) {
  return pieces(source).map((piece) => piece.text).join("");
}

function add(found, text, style) {
  if (!text) return;
  const classes = Object.entries(style).flatMap(([name, value]) => (name === "colour" ? (value ? [value] : []) : value ? [name] : []));
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
    if (code === 0) Object.assign(style, { colour: null, bold: false, dim: false, underline: false });
    else if (code === 1) style.bold = true;
    else if (code === 2) style.dim = true;
    else if (code === 4) style.underline = true;
    else if (code === 22) Object.assign(style, { bold: false, dim: false });
    else if (code === 24) style.underline = false;
    else if (code === 39) style.colour = null;
    else if ((code >= 31 && code <= 36) || (code >= 91 && code <= 96)) style.colour = `c${code % 10}`;
    else if (code === 30 || code === 37 || code === 90 || code === 97) style.colour = null;
    else if (code === 38 || code === 48) at += numbers[at + 1] === 5 ? 2 : 4;
  }
}
