// The document as somebody sees it, and what it must not have.
() => {
  const wrong = [];
  if (globalThis.owned !== undefined) wrong.push("a script of the text ran");
  if (globalThis.violated) wrong.push(`the policy was needed: ${globalThis.violated}`);
  const hidden = /(?![\t\n])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u;
  const say = (text) => JSON.stringify(text.slice(0, 80));
  for (const e of document.querySelectorAll("*")) {
    for (const { name, value } of e.attributes) {
      if (/^on/i.test(name)) wrong.push(`${e.localName} has ${name}`);
      if (/^(href|src|action|formaction|xlink:href|data|srcdoc|poster|background)$/i.test(name) && !/^(#|\/(?![\/\\]))/.test(value) && !value.startsWith("blob:"))
        wrong.push(`${e.localName} leads to ${say(value)}`);
      if (name === "style" && !/^(\s*--[\w-]+:[^;]*;?)*\s*$/.test(value)) wrong.push(`${e.localName} has the style ${say(value)}`);
      if (["title", "aria-label", "placeholder", "alt"].includes(name) && hidden.test(value)) wrong.push(`${name} hides something: ${say(value)}`);
    }
  }
  const walker = document.createTreeWalker(document.documentElement, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const { data, parentElement } = walker.currentNode;
    if (parentElement.localName !== "script" && hidden.test(data)) wrong.push(`${parentElement.localName} hides something: ${say(data)}`);
  }
  if (hidden.test(document.title)) wrong.push(`the title hides something: ${say(document.title)}`);
  if (document.documentElement.scrollWidth > document.documentElement.clientWidth) {
    const far = [...document.querySelectorAll("main *")].find((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll"));
    wrong.push(`the page is ${document.documentElement.scrollWidth} px wide: ${far?.localName}.${far?.className} ${say(far?.textContent ?? "")}`);
  }
  return [...new Set(wrong)];
};
