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
 * Calls `draw` once in the next frame, however often it is asked for; a hidden tab has no frames: twice a second.
 * @param {() => void} draw
 * @returns {() => void}
 */
export function eachFrame(draw) {
  let due = false;
  const go = () => {
    due = false;
    draw();
  };
  return () => {
    if (due) return;
    due = true;
    if (document.hidden) setTimeout(go, 500);
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
