// Where the focus is, and what is wrong with how it shows: some point of it has to be seen, and that it has the focus.
() => {
  const focused = document.activeElement;
  if (!focused || focused === document.body) return { key: null, wrong: null };
  const { left, top, right, bottom, width, height } = focused.getBoundingClientRect();
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  const [dx, dy] = [Math.max(0, width / 2 - 3), Math.max(0, height / 2 - 3)];
  const points = [[x, y], [x - dx, y - dy], [x + dx, y - dy], [x - dx, y + dy], [x + dx, y + dy]];
  const isSeen = ([px, py]) => {
    const hit = document.elementFromPoint(px, py);
    return hit && (focused.contains(hit) || hit.contains(focused) || hit.closest("label")?.control === focused);
  };
  const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(focused);
  const isMarked = (outlineStyle !== "none" && parseFloat(outlineWidth) > 0) || boxShadow !== "none";
  const name = `${focused.localName} ${focused.textContent.trim().slice(0, 40) || focused.name || focused.className}`;
  const wrong = !points.some(isSeen) ? `${name} is covered` : !isMarked ? `${name} does not show its focus` : null;
  return { key: globalThis.wanted.get(focused) ?? name, wrong };
};
