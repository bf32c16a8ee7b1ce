// Elements that are made here where a template would say no more.
import { create } from "../dom.js";

/**
 * A new element, at the end of another.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Element} parent @param {Tag} tag @param {string} [words] @param {Partial<HTMLElementTagNameMap[Tag]>} [more]
 */
export const add = (parent, tag, words = "", more = {}) => parent.appendChild(create(tag, words, more));
