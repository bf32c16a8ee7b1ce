// What only a colour tells apart: the pieces of bars, a filled measure, a pressed button, the page that is open.
() => {
  const look = (e) => {
    const style = getComputedStyle(e);
    const names = ["backgroundColor", "borderTopColor", "borderTopStyle", "borderTopWidth", "borderLeftColor", "borderLeftWidth", "color", "outlineStyle", "fontWeight"];
    return names.map((name) => style[name]).join(" ");
  };
  const seen = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.checkVisibility());
  const wrong = [];
  for (const part of seen(".bar span, .meter > span")) {
    const [own, around] = [part, part.parentElement].map((e) => getComputedStyle(e).backgroundColor);
    if (own === around) wrong.push(`${part.parentElement.className}: a part cannot be told from the rest`);
  }
  for (const shape of seen(".badge svg, .shape")) {
    const around = getComputedStyle(shape.closest(".badge") ?? shape.parentElement).backgroundColor;
    if (getComputedStyle(shape).color === around) wrong.push("a shape has the colour of what it stands on");
  }
  for (const [name, other] of [["aria-pressed='true'", "aria-pressed='false'"], ["aria-current='page'", ":not([aria-current])"]]) {
    const rest = other.startsWith(":") ? other : `[${other}]`;
    for (const on of seen(`[${name}]`)) {
      const off = [...on.parentElement.children].find((e) => e !== on && e.matches(rest) && e.localName === on.localName && e.checkVisibility());
      if (off && look(on) === look(off)) wrong.push(`${on.textContent.trim()}: ${name} does not show`);
    }
  }
  return [...new Set(wrong)];
};
