/** Small things that every part of the page needs: nodes, numbers in words, one drawing a frame. */

/**
 * @param {string} id
 * @returns {any} the node of the page that has this id
 */
export const byId = (id) => document.getElementById(id);

/**
 * Makes a node. Texts are texts: nothing is ever read as HTML.
 * @param {string} tag
 * @param {Record<string, string | number | false | null | undefined>} [attributes]
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {any}
 */
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) node.setAttribute(name, String(value));
  }
  node.append(...children.filter((child) => typeof child === "string" || child instanceof Node));
  return node;
}

/**
 * Changes a node's text, if it is another one: screen readers and layouts are left alone otherwise.
 * @param {Element} node
 * @param {string} text
 */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Replaces a node's children where `data` is not what they were made of.
 * @param {Element} node
 * @param {unknown} data
 * @param {() => (Node | string)[]} children
 */
export function redraw(node, data, children) {
  const key = JSON.stringify(data);
  if (drawn.get(node) === key) return;
  drawn.set(node, key);
  node.replaceChildren(...children());
}
const drawn = new WeakMap();

/**
 * Calls `draw` once in the next frame, however often it is asked for; a hidden tab has no frames: twice a second. What
 * takes long is drawn so seldom that it takes a fifth of the time.
 * @param {() => void} draw
 * @returns {() => void}
 */
export function eachFrame(draw) {
  let due = false;
  let next = 0;
  const go = () => {
    const began = performance.now();
    due = false;
    draw();
    const took = performance.now() - began;
    next = took > 8 ? began + 5 * took : 0;
  };
  return () => {
    if (due) return;
    due = true;
    const rest = document.hidden ? 500 : next - performance.now();
    if (rest > 0) setTimeout(go, rest);
    else requestAnimationFrame(go);
  };
}

/** Between a number and its unit: no line ends there. */
const GAP = "\u00a0";

/**
 * @param {number | null | undefined} value
 * @param {number} [digits] behind the point, below 100
 */
export function number(value, digits = 1) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value.toLocaleString("en", { maximumFractionDigits: Math.abs(value) < 100 ? digits : 0 });
}

/** @param {number | null | undefined} value milliseconds */
export function span(value) {
  if (value === null || value === undefined) return "–";
  return value < 1000 ? `${number(value, value < 10 ? 1 : 0)}${GAP}ms` : seconds(value / 1000);
}

/** @param {number} value seconds */
export function seconds(value) {
  if (value < 120) return `${number(value, value < 10 ? 1 : 0)}${GAP}s`;
  if (value < 7200) return `${number(value / 60, 0)}${GAP}min`;
  return value < 172_800 ? `${number(value / 3600, 0)}${GAP}h` : `${number(value / 86_400, 0)}${GAP}days`;
}

/** @param {number} count @param {string} word */
export const many = (count, word) => `${number(count, 0)} ${word}${count === 1 ? "" : "s"}`;

/** @param {number} [epoch] in seconds */
export const clock = (epoch) => (epoch === undefined ? new Date() : new Date(epoch * 1000)).toLocaleTimeString("en-GB");

/** Tells screen readers something, once. What was told a moment ago stays, or it would not be read. @param {string} text */
export function announce(text) {
  const told = byId("announcer");
  told.append(make("p", {}, text));
  if (told.childElementCount > 3) told.firstElementChild.remove();
}

/** Copies a text, and says so on the button that asked for it. @param {string} text @param {any} button */
export async function copy(text, button) {
  // Pages of another machine without TLS have no clipboard: there, what is selected is copied.
  const copied = await (navigator.clipboard?.writeText(text).then(() => true, () => false) ?? false) || selected(text);
  const words = button.dataset.words ??= button.textContent;
  say(button, copied ? "Copied" : "Not copied");
  announce(button.textContent);
  setTimeout(() => say(button, words), 2000);
}

/** @param {string} text @returns {boolean} whether it was copied */
function selected(text) {
  const before = /** @type {any} */ (document.activeElement);
  const field = make("textarea", { class: "unseen", "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  before?.focus();
  return copied;
}
