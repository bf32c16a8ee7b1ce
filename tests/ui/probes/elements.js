// How many there are of each element; those of an output are its colours and marks.
() => {
  const found = {};
  for (const e of document.querySelectorAll("*:not(.output *)")) found[e.localName] = (found[e.localName] ?? 0) + 1;
  return found;
};
