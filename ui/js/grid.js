// Each host a tile on a canvas, under its groups; the table says the same in words. For a screen reader and the keyboard it
// is a listbox of which only the option under the cursor is there: https://www.w3.org/WAI/ARIA/apg/patterns/listbox/
/** @import {Host, Layout, Tiles, TilesActs} from "./app.js" */
import { visible } from "./ansi.js";
import { create, one, text } from "./dom.js";
import { t } from "./i18n.js";
import { paint } from "./shapes.js";
import { ROLES, stateOf } from "./states.js";

const TILE = 12;
const PITCH = 14;
const HEAD = 26;
const MOST_PIXELS = 16_000; // along a side of a canvas, for every browser

/** Where sections `{name, hosts}` lie, one below the other. `first`: how many tiles are before.
 * @param {Tiles[]} sections @param {number} width */
export function layoutOf(sections, width) {
  const columns = Math.max(1, Math.floor((width + PITCH - TILE) / PITCH));
  let [top, first] = [0, 0];
  const placed = sections.map(({ name, hosts }) => {
    const section = { name, hosts, first, top: top + HEAD };
    top += HEAD + Math.ceil(hosts.length / columns) * PITCH;
    first += hosts.length;
    return section;
  });
  return { columns, sections: placed, height: top, count: first };
}

/** @param {Layout} layout @param {number} tile */
function sectionOf({ sections }, tile) {
  const found = sections.findLast(({ first, hosts }) => first <= tile && hosts.length);
  if (found) return found;
  throw new Error(`there is no tile ${tile}`);
}

/** @param {Layout} layout @param {number} tile */
export function placeOf(layout, tile) {
  const { first, top } = sectionOf(layout, tile);
  const at = tile - first;
  return { x: (at % layout.columns) * PITCH, y: top + Math.floor(at / layout.columns) * PITCH };
}

/** The tile at a point, with the gap to its right and below it; -1: there is none.
 * @param {Layout} layout @param {number} x @param {number} y */
export function tileAt(layout, x, y) {
  const column = Math.floor(x / PITCH);
  const section = layout.sections.findLast(({ top }) => top <= y);
  if (!section || column < 0 || column >= layout.columns) return -1;
  const at = Math.floor((y - section.top) / PITCH) * layout.columns + column;
  return at < section.hosts.length ? section.first + at : -1;
}

/** Where an arrow leads from a tile: up and down stay in the column as far as there is one.
 * @param {Layout} layout @param {number} tile @param {string} key */
export function step(layout, tile, key) {
  const last = layout.count - 1;
  if (key === "Home" || key === "End") return key === "Home" ? 0 : last;
  if (key === "ArrowLeft" || key === "ArrowRight") return Math.max(0, Math.min(last, tile + (key === "ArrowLeft" ? -1 : 1)));
  const { columns, sections } = layout;
  const here = sectionOf(layout, tile);
  const column = (tile - here.first) % columns;
  const row = Math.floor((tile - here.first) / columns) + (key === "ArrowUp" ? -1 : 1);
  /** @param {Tiles} section */
  const rowsOf = ({ hosts }) => Math.ceil(hosts.length / columns);
  /** @param {Layout["sections"][number]} section @param {number} wanted */
  const at = (section, wanted) => section.first + Math.min(wanted * columns + column, section.hosts.length - 1);
  if (row >= 0 && row < rowsOf(here)) return at(here, row);
  const next = sections[sections.indexOf(here) + (row < 0 ? -1 : 1)];
  return next ? at(next, row < 0 ? rowsOf(next) - 1 : 0) : tile;
}

/** `draw` takes the sections; `open` and `toggle` a host; `isPicked` and `wordsOf` say what is shown of one.
 * @param {Element} root @param {TilesActs} how */
export function createGrid(root, { open, toggle, isPicked, wordsOf, signal }) {
  const canvas = create("canvas", "", { ariaHidden: "true" });
  const words = create("span", "", { className: "visually-hidden" });
  const option = create("div", "", { className: "cursor", role: "option", hidden: true });
  const tip = create("div", "", { className: "tip", ariaHidden: "true", hidden: true });
  const box = create("div", "", { className: "tiles", role: "listbox", tabIndex: 0, ariaLabel: t("fleet.tiles"), ariaMultiSelectable: "true" });
  option.append(words);
  box.append(canvas, option, tip, ...probes());
  root.append(box);
  const brush = brushOf(canvas);

  let layout = layoutOf([], 0);
  /** @type {Host[]} */
  let tiles = []; // of each its host
  /** @type {string[]} */
  let drawn = []; // what is seen of each
  let colours = "";
  let ratio = 0;
  let cursor = 0;
  let over = -1;
  /** @type {Map<string, HTMLCanvasElement>} */
  const stamps = new Map();

  /** @param {Host} host */
  const look = (host) => `${host.state}${isPicked(host) ? " picked" : ""}`;

  /** @param {Tiles[]} sections */
  function draw(sections) {
    const next = layoutOf(sections, box.clientWidth);
    const hosts = next.sections.flatMap((section) => section.hosts);
    const isSame = next.columns === layout.columns && headsOf(next) === headsOf(layout) && hosts.length === tiles.length && hosts.every((host, at) => host.hostname === tiles[at].hostname);
    const had = tiles[cursor]?.hostname;
    [layout, tiles] = [next, hosts];
    if (recolour() || !isSame || scale() !== ratio) whole();
    else for (let tile = 0; tile < tiles.length; tile += 1) if (drawn[tile] !== look(tiles[tile])) drawAgain(tile);
    if (tiles[cursor]?.hostname !== had) cursor = Math.max(0, tiles.findIndex((host) => host.hostname === had));
    point();
    hover(over);
  }

  /** @param {Layout} layout */
  const headsOf = ({ sections }) => sections.map(({ name, first }) => `${first} ${name}`).join("\n");
  const scale = () => Math.min(window.devicePixelRatio, MOST_PIXELS / Math.max(1, layout.height));

  function whole() {
    if (!box.clientWidth) return;
    ratio = scale();
    stamps.clear();
    canvas.width = Math.round(box.clientWidth * ratio);
    canvas.height = Math.round(layout.height * ratio);
    canvas.style.setProperty("--height", `${layout.height}px`);
    const { color, fontFamily } = getComputedStyle(box);
    brush.setTransform(ratio, 0, 0, ratio, 0, 0);
    Object.assign(brush, { fillStyle: color, font: `600 13px ${fontFamily}`, textBaseline: "middle" });
    for (const { name, hosts, top } of layout.sections) brush.fillText(`${visible(name)} · ${hosts.length}`, 0, top - HEAD / 2);
    brush.setTransform(1, 0, 0, 1, 0, 0);
    const { columns } = layout;
    for (const { hosts, first, top } of layout.sections) {
      for (let at = 0; at < hosts.length; at += 1) drawTile(first + at, (at % columns) * PITCH, top + Math.floor(at / columns) * PITCH);
    }
  }

  /** @param {number} tile */
  function drawAgain(tile) {
    const { x, y } = placeOf(layout, tile);
    brush.clearRect(Math.round(x * ratio), Math.round(y * ratio), Math.round(TILE * ratio), Math.round(TILE * ratio));
    drawTile(tile, x, y);
  }

  /** @param {number} tile @param {number} x @param {number} y */
  function drawTile(tile, x, y) {
    const seen = (drawn[tile] = look(tiles[tile]));
    let stamp = stamps.get(seen);
    if (!stamp) stamps.set(seen, (stamp = stampOf(tiles[tile])));
    brush.drawImage(stamp, Math.round(x * ratio), Math.round(y * ratio));
  }

  /** Each look is drawn once, and then copied. @param {Host} host */
  function stampOf(host) {
    const { role, shape } = stateOf("host", host.state);
    const size = Math.round(TILE * ratio);
    const stamp = create("canvas", "", { width: size, height: size });
    const pen = brushOf(stamp);
    pen.scale(size / 16, size / 16);
    paint(pen, shape, colourOf(role));
    if (isPicked(host)) Object.assign(pen, { lineWidth: 2, strokeStyle: colourOf("run") }).strokeRect(1, 1, 14, 14);
    return stamp;
  }

  /** @param {string} role */
  const colourOf = (role) => getComputedStyle(one(box, `.shape.role-${role}`, HTMLElement)).color;

  /** A canvas knows no tokens: they are read from elements which have them, in whatever theme. */
  function recolour() {
    const before = colours;
    colours = [getComputedStyle(box).color, ...ROLES.map(colourOf)].join();
    return colours !== before;
  }

  const redraw = () => recolour() && whole();

  function point() {
    const host = tiles[cursor];
    const isShown = host && document.activeElement === box;
    option.hidden = !host;
    option.classList.toggle("shown", Boolean(isShown));
    if (!host) return box.removeAttribute("aria-activedescendant");
    const { x, y } = placeOf(layout, cursor);
    option.style.setProperty("--x", `${x}px`);
    option.style.setProperty("--y", `${y}px`);
    Object.assign(option, { id: `tile-${cursor}`, ariaPosInSet: `${cursor + 1}`, ariaSetSize: `${tiles.length}`, ariaSelected: String(isPicked(host)) });
    text(words, wordsOf(host, sectionOf(layout, cursor).name));
    box.setAttribute("aria-activedescendant", option.id); // another one for each tile, so that it is read out
    if (isShown && over < 0) show(cursor);
  }

  /** @param {number} tile */
  function hover(tile) {
    over = tile < tiles.length ? tile : -1;
    canvas.classList.toggle("over", over >= 0);
    if (over >= 0) show(over);
    else if (document.activeElement === box && tiles[cursor]) show(cursor);
    else tip.hidden = true;
  }

  /** @param {number} tile */
  function show(tile) {
    const { x, y } = placeOf(layout, tile);
    tip.hidden = false;
    tip.style.setProperty("--x", `${x}px`);
    tip.style.setProperty("--y", `${y}px`);
    text(tip, wordsOf(tiles[tile], sectionOf(layout, tile).name));
  }

  /** @param {KeyboardEvent} event */
  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !tiles.length) return;
    if (event.key === "Enter") open(tiles[cursor]);
    else if (event.key === " ") toggle(tiles[cursor]);
    else if (/^(Arrow|Home|End)/.test(event.key)) {
      cursor = step(layout, cursor, event.key);
      over = -1;
      point();
      option.scrollIntoView({ block: "nearest" });
    } else return;
    event.preventDefault();
  }

  /** @param {MouseEvent} event */
  const under = ({ offsetX, offsetY }) => tileAt(layout, offsetX, offsetY);
  canvas.onpointermove = (event) => {
    const tile = under(event);
    if (tile !== over) hover(tile);
  };
  canvas.onpointerleave = () => hover(-1);
  canvas.onclick = (event) => {
    const tile = under(event);
    if (tile >= 0) open(tiles[tile]);
  };
  box.onkeydown = onKey;
  box.onfocus = point;
  box.onblur = () => (point(), hover(over));
  for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) matchMedia(query).addEventListener("change", redraw, { signal });
  document.addEventListener("change", redraw, { signal }); // of the theme, too
  const observer = new ResizeObserver(() => draw(layout.sections));
  observer.observe(box);
  signal.addEventListener("abort", () => observer.disconnect());
  return { draw };
}

/** @param {HTMLCanvasElement} canvas */
const brushOf = (canvas) => /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));

/** An element for each role, to read its colour from. */
function probes() {
  return ROLES.map((role) => create("span", "", { className: `shape role-${role}`, hidden: true }));
}
