// words of a usual length, so that lines may break
// Words that go out of what they stand in, where that neither scrolls nor says by an ellipsis that there is more.
() => {
  const width = document.documentElement.clientWidth;
  const wrong = [];
  for (const e of document.querySelectorAll("body *")) {
    const hasWords = [...e.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!hasWords || !e.checkVisibility() || e.closest(".visually-hidden, .skip, datalist, option, .scroll, .output")) continue;
    const style = getComputedStyle(e);
    const isMeant = style.textOverflow === "ellipsis" || style.webkitLineClamp !== "none";
    const name = `${e.localName}.${e.className} "${e.textContent.trim().slice(0, 60)}"`;
    if (!isMeant && style.display !== "inline" && e.scrollWidth > e.clientWidth + 1) wrong.push(`${name} is wider than its place`);
    else if (e.getBoundingClientRect().right > width + 1) wrong.push(`${name} goes out of the page`);
  }
  return wrong;
};
