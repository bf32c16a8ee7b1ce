// The shapes of states, as `states.json` draws them on 16 × 16: for the page, and for a canvas.
/** @import {Drawn, Given} from "./app.js" */
import { SHAPES } from "./states.js";

const SVG = "http://www.w3.org/2000/svg";

/** A symbol for each, for `<use href="#s-…">`. */
export function addSymbols() {
  const svg = make("svg", { hidden: "" });
  for (const [name, parts] of Object.entries(SHAPES)) {
    const symbol = make("symbol", { id: `s-${name}`, viewBox: "0 0 16 16" });
    symbol.append(...parts.map(part));
    svg.append(symbol);
  }
  document.body.append(svg);
}

/** On a canvas, whose unit is that of the drawing.
 * @param {CanvasRenderingContext2D} canvas @param {string} name @param {string} colour */
export function paint(canvas, name, colour) {
  Object.assign(canvas, { fillStyle: colour, strokeStyle: colour });
  for (const { fill, line, width = 1, dash = [] } of SHAPES[name]) {
    if (fill) {
      canvas.fill(new Path2D(fill), "evenodd");
      continue;
    }
    canvas.lineWidth = width;
    canvas.setLineDash(dash);
    canvas.stroke(new Path2D(line));
  }
}

/** @param {Drawn} drawn */
function part({ fill, line, width, dash }) {
  if (fill) return make("path", { d: fill, fill: "currentColor", "fill-rule": "evenodd" });
  return make("path", { d: line, fill: "none", stroke: "currentColor", "stroke-width": width, "stroke-dasharray": dash ?? "none" });
}

/** @param {"svg" | "symbol" | "path"} tag @param {Given} attributes */
function make(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  return element;
}
