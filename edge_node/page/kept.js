/** Conversations in this browser, where somebody switched that on; otherwise there is no trace of them here. */

const KEY = "flexspec.conversations";
/** Conversations, and characters of all of them. */
const MOST = 30;
const MOST_LENGTH = 1_000_000;

/** @typedef {{name: string, turns: any[]}} Kept */

export const isOn = () => localStorage.getItem(KEY) !== null;

/** @returns {Kept[]} the newest first */
export function all() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return kept.filter(({ name, turns }) => typeof name === "string" && turns.every(isTurn));
  } catch {
    return []; // written by another program, or another version of this one
  }
}

/** @param {any} turn @returns {boolean} */
const isTurn = ({ question, text, writers, sizes }) =>
  [question, text].every((each) => typeof each === "string") && Array.isArray(writers) && Array.isArray(sizes);

/** Keeps a conversation, and the newest others for which there is room. @param {Kept} [kept] none: only begins to */
export function keep(kept) {
  const list = all().filter(({ name }) => name !== kept?.name);
  if (kept?.turns.length) list.unshift(kept);
  list.splice(MOST);
  for (;;) {
    const text = JSON.stringify(list);
    try {
      if (text.length <= MOST_LENGTH || !list.length) {
        localStorage.setItem(KEY, text);
        return;
      }
    } catch { // the browser has less room
      if (!list.length) return;
    }
    if (list.length > 1) list.pop();
    else if (list[0].turns.length > 1) list[0] = { ...list[0], turns: list[0].turns.slice(1) };
    else list.pop();
  }
}

/** Removes all that the page has ever put into this browser, but the key of this tab. */
export function forget() {
  for (const key of Object.keys(localStorage)) if (key.startsWith("flexspec.")) localStorage.removeItem(key);
}

/** @param {() => void} then another tab has forgotten */
export function onForget(then) {
  addEventListener("storage", ({ key, newValue }) => (key === KEY || key === null) && newValue === null && then());
}
