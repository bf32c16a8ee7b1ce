// What one text has that another has not, line by line.

const MOST_CELLS = 4_000_000; // above this the middle of both is shown whole: a browser must not stand still

/** `[{mark, line}]` with the marks " " for both, "-" for `before` only and "+" for `after` only. */
export function diff(before, after) {
  const [old, now] = [lines(before), lines(after)];
  let start = 0;
  while (start < old.length && start < now.length && old[start] === now[start]) start += 1;
  let end = 0;
  while (end < old.length - start && end < now.length - start && old.at(-1 - end) === now.at(-1 - end)) end += 1;
  return [
    ...old.slice(0, start).map((line) => ({ mark: " ", line })),
    ...middle(old.slice(start, old.length - end), now.slice(start, now.length - end)),
    ...old.slice(old.length - end).map((line) => ({ mark: " ", line })),
  ];
}

function lines(source) {
  return source === "" ? [] : source.replace(/\n$/, "").split("\n");
}

function middle(old, now) {
  const width = now.length + 1;
  const isLarge = old.length * now.length > MOST_CELLS;
  const common = isLarge ? null : commonLengths(old, now, width);
  const found = [];
  let [left, right] = [0, 0];
  while (left < old.length || right < now.length) {
    if (common && left < old.length && right < now.length && old[left] === now[right]) {
      found.push({ mark: " ", line: old[left] });
      left += 1;
      right += 1;
    } else if (left < old.length && (!common || right === now.length || common[(left + 1) * width + right] >= common[left * width + right + 1])) {
      found.push({ mark: "-", line: old[left] });
      left += 1;
    } else {
      found.push({ mark: "+", line: now[right] });
      right += 1;
    }
  }
  return found;
}

/** How many lines the rests of both have in common, from each pair of places. */
function commonLengths(old, now, width) {
  const table = new Uint32Array((old.length + 1) * width);
  for (let left = old.length - 1; left >= 0; left -= 1) {
    for (let right = now.length - 1; right >= 0; right -= 1) {
      table[left * width + right] =
        old[left] === now[right] ? table[(left + 1) * width + right + 1] + 1 : Math.max(table[(left + 1) * width + right], table[left * width + right + 1]);
    }
  }
  return table;
}
