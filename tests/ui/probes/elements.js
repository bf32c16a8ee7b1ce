// Which elements there are, each in which; those of an output are its colours and marks. A list may be longer or shorter.
() => {
  const inItsPlace = (e) => `${e.parentElement?.localName} > ${e.localName}.${e.className.baseVal ?? e.className}`;
  return Object.fromEntries([...document.querySelectorAll("*:not(.output *)")].map((e) => [inItsPlace(e), 1]));
};
