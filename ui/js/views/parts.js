// Elements by name, made here where a template would say no more.
import { create } from "../dom.js";

/** `add(parent, tag, name, words, properties)` gives a new element, which is there under its name as well. */
export function parts(root) {
  const part = { root };
  const add = (parent, tag, name, words = "", more = {}) => (part[name] = parent.appendChild(create(tag, words, more)));
  return { part, add };
}
