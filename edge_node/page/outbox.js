/** What waits in the node's outbox, and answers that nobody has read. */
import { request } from "./api.js";
import { open, shows } from "./chat.js";
import { announce, byId, clock, make, many, redraw, say } from "./dom.js";
import { happened } from "./news.js";

/** Milliseconds between two looks, at least. */
const EVERY = 500;
/** @type {Record<string, string>} */
const STATES = {
  queued: "queued", writing: "being written", stale: "waits for you", done: "answer ready", failed: "failed",
};

/** @type {any[]} */
let shown = [];
let due = false;

/** Looks at the outbox, soon; often asked for, it looks once. */
export function look() {
  if (due) return;
  due = true;
  setTimeout(async () => {
    due = false;
    const response = await request("v1/outbox").catch(() => null);
    if (response) draw((await response.json()).data);
  }, EVERY);
}

/** @param {any[]} data */
function draw(data) {
  const before = shown;
  shown = data.filter(({ id, state, read }) => !shows(id) && !(state === "done" && read));
  for (const { id, state, prompt } of shown) {
    if (state !== "done" || before.some((one) => one.id === id && one.state === "done")) continue;
    const words = `An answer is ready: ${prompt}`;
    happened(words);
    announce(words);
  }
  const parts = [count("answer", "ready", "done"), count("question", "under way", "queued", "writing"),
    count("question", "for you to decide", "stale", "failed")];
  say(byId("waiting"), parts.filter(Boolean).join(", "));
  byId("waiting").hidden = !shown.length;
  byId("outbox-part").hidden = !shown.length;
  redraw(byId("outbox"), shown, () => shown.map(card));
}

/** @param {string} what @param {string} is @param {...string} states @returns {string} how many are in these states */
function count(what, is, ...states) {
  const found = shown.filter(({ state }) => states.includes(state)).length;
  return found ? `${many(found, what)} ${is}` : "";
}

/** @param {any} row of `GET /v1/outbox` */
function card({ id, path: asked, state, accepted, prompt, tokens, error }) {
  const kind = { done: "good", failed: "bad", stale: "bad" }[/** @type {string} */ (state)] ?? "news";
  const since = make("span", { class: "load" }, `since ${clock(accepted)}`);
  const top = make("div", { class: "top" }, make("span", { class: `tag ${kind}` }, STATES[state] ?? state), since);
  const act = (/** @type {string} */ words, /** @type {() => Promise<any>} */ done) => {
    const button = make("button", { type: "button", "aria-label": `${words}: ${prompt}` }, words);
    button.addEventListener("click", () => done().catch(() => {}).then(look));
    return button;
  };
  const path = `v1/outbox/${id}`;
  const row = make("div", { class: "row" },
    state === "stale" && act("Send now", () => request(path, { method: "POST" })),
    asked === "/v1/chat/completions" && ["queued", "writing", "done"].includes(state) && act("Show", () => open(path)),
    act("Drop", () => request(path, { method: "DELETE" })));
  const told = error || (tokens ? `${many(tokens, "token")} so far` : "");
  return make("li", { class: "card", "data-outbox": id, "data-state": state }, top,
    make("strong", {}, prompt), told && make("p", {}, told), row);
}
