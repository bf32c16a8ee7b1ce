// What one text has that another has not, line by line.

const MOST_CELLS = 4_000_000; // above this the middle of both is shown whole: a browser must not stand still

/** `[{mark, line}]` with the marks " " for both, "-" for `before` only and "+" for `after` only.
 * @param {string} before @param {string} after */
export function diff(before, after) {
  const [old, now] = [before, after].map((source) => (source === "" ? [] : source.replace(/\n$/, "").split("\n")));
  let start = 0;
  while (start < old.length && old[start] === now[start]) start += 1;
  let end = 0;
  while (end < Math.min(old.length, now.length) - start && old.at(-1 - end) === now.at(-1 - end)) end += 1;
  return [
    ...marked(" ", old.slice(0, start)),
    ...middle(old.slice(start, old.length - end), now.slice(start, now.length - end)),
    ...marked(" ", old.slice(old.length - end)),
  ];
}

/** @param {string} mark @param {string[]} lines */
const marked = (mark, lines) => lines.map((line) => ({ mark, line }));

/** @param {string[]} old @param {string[]} now */
function middle(old, now) {
  if (old.length * now.length > MOST_CELLS) return [...marked("-", old), ...marked("+", now)];
  const width = now.length + 1;
  const common = commonLengths(old, now, width);
  const found = [];
  let [left, right] = [0, 0];
  while (left < old.length || right < now.length) {
    const isBoth = left < old.length && old[left] === now[right];
    const isOld = isBoth || right === now.length || (left < old.length && common[(left + 1) * width + right] >= common[left * width + right + 1]);
    found.push({ mark: isBoth ? " " : isOld ? "-" : "+", line: isOld ? old[left] : now[right] });
    if (isOld) left += 1;
    if (isBoth || !isOld) right += 1;
  }
  return found;
}

/** @param {string[]} old @param {string[]} now @param {number} width */
function commonLengths(old, now, width) {
  const table = new Uint32Array((old.length + 1) * width);
  for (let left = old.length - 1; left >= 0; left -= 1) {
    for (let right = now.length - 1; right >= 0; right -= 1) {
      const [at, below] = [left * width + right, (left + 1) * width + right];
      table[at] = old[left] === now[right] ? table[below + 1] + 1 : Math.max(table[below], table[at + 1]);
    }
  }
  return table;
}
