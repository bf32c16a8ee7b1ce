// What Tab has to reach, each by a name of its own; of the radio buttons of a group it reaches one.
() => {
  const found = document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']");
  const isThere = (e) => e.checkVisibility({ visibilityProperty: true }) && !e.disabled && e.tabIndex >= 0
    && !e.closest("[inert]") && !e.matches(".skip, [tabindex='-1']");
  const nameOf = (e) => e.ariaLabel || e.labels?.[0]?.textContent.trim() || e.textContent.trim() || e.name || "";
  const keyOf = (e, place) => e.type === "radio" ? `radio ${e.name}` : `${place} ${e.localName} ${nameOf(e).slice(0, 40)}`;
  globalThis.wanted = new Map([...found].filter(isThere).map((e, place) => [e, keyOf(e, place)]));
  return [...new Set(wanted.values())];
};
