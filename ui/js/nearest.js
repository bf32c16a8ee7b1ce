// Names that look like one that is not there.

/** What to look for, from the most to the least of a name. @param {string} name */
export function partsOf(name) {
  const words = name.split(/[^a-z]+/).filter((word) => word.length > 1).sort((a, b) => b.length - a.length);
  return [...new Set([name, name.slice(0, Math.ceil(name.length / 2)), words[0] ?? name, name.slice(0, 2)])];
}

/** @param {string} name @param {string[]} names @param {number} most */
export function nearest(name, names, most) {
  const ranked = [...new Set(names)].map((found) => /** @type {const} */ ([distance(name, found), found]));
  return ranked.sort(([a, one], [b, other]) => a - b || (one < other ? -1 : 1)).slice(0, most).map(([, found]) => found);
}

/** How many letters have to change, to come or to go. @param {string} one @param {string} other */
function distance(one, other) {
  let row = Array.from({ length: other.length + 1 }, (_, place) => place);
  for (const [line, letter] of [...one].entries()) {
    const next = [line + 1];
    for (let place = 1; place < row.length; place += 1) {
      next[place] = Math.min(row[place] + 1, next[place - 1] + 1, row[place - 1] + (letter === other[place - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[other.length];
}
