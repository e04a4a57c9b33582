/** What keeps everybody waiting, as a banner and for screen readers, and a list of what happened. */
import { announce, byId, clock, make, say, seconds } from "./dom.js";

const LINES = 30;
const BACK_FOR = 10_000;
/** A node that nobody looked at knows of no worker yet: it is given this long, in milliseconds. */
const GRACE = 3000;
/** @type {Record<string, string>} */
const BACK = {
  node: "The edge node is back", link: "The link to the broker is back", ready: "Texts can be written again",
};
const NO_LINK =
  "No link to the broker. Texts wait, or the draft writes on alone; all go on by themselves. Nothing is lost.";

/** @type {{kind: string, words: string, since: number} | null} */
let trouble = null;
let backUntil = 0;
let unreadySince = Date.now();

/**
 * Adds a line to what happened.
 * @param {string} words
 * @param {string} [kind] a line takes the place of one of its kind right before it
 */
export function happened(words, kind = "") {
  const list = byId("happened");
  if (kind && list.firstElementChild?.dataset.kind === kind) list.firstElementChild.remove();
  list.prepend(make("li", { "data-kind": kind || null }, make("time", {}, clock()), make("span", {}, words)));
  while (list.childElementCount > LINES) list.lastElementChild.remove();
}

/**
 * @param {any} node newest view of the node; null before any
 * @param {string | null} lost why there are no events
 * @param {number} linkSince when the link came up or was lost
 * @returns {typeof trouble} what holds everything up now
 */
function troubled(node, lost, linkSince) {
  const now = Date.now();
  if (lost !== null || !node?.link.up || !node.not_ready) unreadySince = now;
  if (lost !== null) return { kind: "node", words: lost, since: now };
  if (node && !node.link.up) return { kind: "link", words: NO_LINK, since: linkSince };
  if (now - unreadySince < GRACE) return null;
  return { kind: "ready", words: `No text can be written now: ${node.not_ready}.`, since: unreadySince };
}

/**
 * Says what holds everything up, and when that is over, how long it took.
 * @param {Parameters<typeof troubled>} state
 */
export function draw(...state) {
  const banner = byId("banner");
  const now = troubled(...state);
  if (now?.kind !== trouble?.kind) {
    // Where the link goes while no worker is there, texts cannot be written again.
    if (trouble && !(now && trouble.kind === "ready")) {
      const words = `${BACK[trouble.kind]} after ${seconds((Date.now() - trouble.since) / 1000)}.`;
      happened(words);
      if (!now) tell("back", words);
      backUntil = Date.now() + BACK_FOR;
    }
    if (now) {
      happened(now.words);
      tell(now.kind, now.words);
    }
    trouble = now;
  }
  banner.hidden = !now && Date.now() > backUntil;
  if (now) say(byId("banner-words"), now.words);
  say(byId("banner-time"), trouble ? `for ${seconds((Date.now() - trouble.since) / 1000)}` : "");
}

/** @param {string} kind @param {string} words */
function tell(kind, words) {
  announce(words);
  byId("banner").dataset.kind = kind;
  say(byId("banner-words"), words);
}
