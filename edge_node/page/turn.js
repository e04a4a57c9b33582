/** One question and its answer: as Markdown, or by who wrote which word. */
import { announce, byId, eachFrame, make, many, number, seconds } from "./dom.js";
import { Rendered } from "./markdown.js";

/** @type {Record<string, string>} */
const WRITERS = {
  target: "the large model itself",
  device: "a draft on this device",
  lookup: "found in text that was there",
  worker: "the worker's own draft",
  grammar: "no other token was allowed",
  cloud: "sent again: worker or target",
  unverified: "this device alone, not confirmed",
};
const ALONE = "Nobody can be reached: this device writes on alone, unverified.";
/** Why that ended. @type {Record<string, string>} */
const STOPPED = { unsure: ", until it was unsure of itself", repeats: ", until it went in circles", limit: ", its most" };
/** States of an answer that nobody writes any more. */
const OVER = ["done", "unverified", "stopped", "failed"];
const LOST = "The page was closed before the node had answered.";

/** Whether writers are marked, and states of the family's versions. @type {{who: boolean, states: Map<string, string>}} */
export const shown = { who: false, states: new Map() };

/** The parts of `text` have their writers in `writers` and their sizes in `sizes`. */
export class Turn {
  /** @param {string} question */
  constructor(question) {
    this.question = question;
    this.text = "";
    /** @type {string[]} */
    this.writers = [];
    /** @type {number[]} */
    this.sizes = [];
    /** @type {[string, string][]} pieces that are not drawn yet */
    this.coming = [];
    this.id = "";
    /** Id of the last event, behind which a stream goes on. */
    this.place = "";
    this.reason = "";
    this.provisional = "";
    this.draft = make("span", { "data-writer": "unverified", title: ALONE });
    this.began = performance.now();
    /** @type {any} */
    this.usage = null;
    this.took = 0;
    this.answer = make("div", { class: "answer" });
    this.note = make("p", { class: "note" }, "Asking …");
    this.node = make("li", { class: "turn", "data-state": "waiting" },
      make("p", { class: "question" }, make("span", { class: "unseen" }, "You: "), question),
      make("p", { class: "unseen" }, "Answer: "), this.answer, this.note);
    this.draw = eachFrame(() => atTheEnd(() => this.drawNow()));
    this.view(shown.who);
  }

  /** @param {any} kept what `kept` told @param {boolean} last where the node may still write @returns {Turn} */
  static from({ question, text, writers, sizes, id, reason, provisional, usage, took, state, note }, last) {
    const turn = new Turn(question);
    Object.assign(turn, { text, writers, sizes, id, reason, provisional, usage, took });
    turn.view(shown.who);
    if (OVER.includes(state)) turn.now(state, note);
    else if (!id || !last) turn.now("failed", LOST);
    if (turn.state !== "waiting") turn.over();
    return turn;
  }

  /** All that a page needs to show it again. An answer that is still written is the node's: its id is enough. */
  get kept() {
    const { question, text, writers, sizes, id, reason, provisional, usage, took, state } = this;
    const all = { question, text, writers, sizes, id, reason, provisional, usage, took };
    if (!OVER.includes(state)) Object.assign(all, { text: "", writers: [], sizes: [], provisional: "" });
    return { ...all, state, note: this.note.textContent };
  }

  /** Name of the text in the node's outbox. @returns {string} */
  get box() {
    return this.id.split("-").at(-1) ?? "";
  }

  /** @returns {string} */
  get state() {
    return this.node.dataset.state;
  }

  /** @param {string} state waiting, writing, done, unverified, stopped or failed @param {string} note */
  now(state, note) {
    this.node.dataset.state = state;
    this.note.textContent = note;
    this.note.hidden = !note;
  }

  /** Has text stand unverified behind what is confirmed. @param {{at: number, text: string}} change in code points */
  unverified({ at, text }) {
    if (!this.provisional && text) announce(ALONE);
    this.provisional = [...this.provisional].slice(0, at).join("") + text;
    this.draw();
  }

  /** Lets confirmed text take the place of unverified text. @param {string} text */
  confirm(text) {
    this.provisional = this.provisional.startsWith(text) ? this.provisional.slice(text.length) : "";
  }

  /** @param {string} piece @param {string} writer */
  add(piece, writer) {
    this.text += piece;
    if (this.writers.at(-1) !== writer) {
      this.writers.push(writer);
      this.sizes.push(0);
    }
    this.sizes[this.sizes.length - 1] += piece.length;
    this.coming.push([piece, writer]);
    this.draw();
  }

  /** Draws the whole answer anew. @param {boolean} who by who wrote what, or as Markdown */
  view(who) {
    this.answer.replaceChildren();
    this.answer.classList.toggle("plain", who);
    this.node.toggleAttribute("data-marked", who);
    this.rendered = who ? null : new Rendered(this.answer);
    let at = 0;
    this.coming = this.writers.map((writer, part) => [this.text.slice(at, (at += this.sizes[part])), writer]);
    this.drawNow();
  }

  /** Draws what came since the last frame; neighbours of one writer are one node. */
  drawNow() {
    this.draft.remove();
    for (const [piece, writer] of this.coming.splice(0)) {
      const last = this.answer.lastElementChild;
      if (this.rendered) this.rendered.add(piece);
      else if (last?.dataset.writer === writer) last.firstChild.appendData(piece);
      else {
        addToLegend(writer);
        this.answer.append(make("span", { "data-writer": writer, title: WRITERS[writer] }, piece));
      }
    }
    this.rendered?.draw();
    if (!this.provisional) return;
    addToLegend("unverified");
    this.draft.replaceChildren(make("span", { class: "unseen" }, "Unverified: "), this.provisional);
    const last = this.answer.lastElementChild;
    (last?.localName === "p" ? last : this.answer).append(this.draft);
  }

  /** Leaves the text and its figures alone; a button brings the marks back. */
  fold() {
    this.node.querySelector(".shares")?.remove();
    if (this.note.hidden) this.note.remove();
    if (this.writers.length < 2 || this.provisional || this.node.querySelector("[data-act=who]")) return;
    this.node.querySelector(".acts").append(make("button", { type: "button", "data-act": "who" }, "Who wrote what?"));
    if (shown.who) this.view(false);
  }

  /** @returns {[string, number][]} writers by their share of the characters */
  shares() {
    /** @type {Record<string, number>} */
    const sum = {};
    this.writers.forEach((writer, part) => (sum[writer] = (sum[writer] ?? 0) + this.sizes[part]));
    return Object.entries(sum).map(([writer, length]) => [writer, length / this.text.length]);
  }

  /** Draws what is left, says below the answer what it took, and offers what can be done with it. */
  over() {
    this.drawNow();
    if (this.text || this.usage?.flexspec.provisional) this.sum();
    const act = (/** @type {string} */ name, /** @type {string} */ words) =>
      make("button", { type: "button", "data-act": name, "aria-label": `${words}: ${this.question.slice(0, 60)}` }, words);
    const copy = (this.text || this.provisional) && act("copy", "Copy");
    this.node.append(make("div", { class: "acts" }, copy, act("edit", "Edit"), act("retry", "Retry")));
  }

  /** Says who wrote it, which version, and what it took. */
  sum() {
    const shares = this.shares().sort((a, b) => b[1] - a[1]);
    const bar = make("div", { class: "shares", "aria-hidden": "true" });
    for (const [writer, share] of shares) {
      const part = make("span", { "data-writer": writer });
      part.style.flexGrow = String(share);
      bar.append(part);
    }
    const wrote = shares.length && shares.map(([writer, share]) => `${writer} ${number(100 * share, 0)} %`).join(", ");
    const by = wrote && make("span", { class: "wrote" }, `Written by ${wrote}`, make("br"));
    const line = make("p", { class: "figures" }, by);
    if (this.usage) {
      const { completion_tokens: tokens, flexspec: own } = this.usage;
      this.node.dataset.version = own.version;
      const known = [shown.states.get(own.version), own.digest?.slice(0, 8)].filter(Boolean).join(", ");
      const version = `version ${own.version}${known && ` (${known})`}`;
      const rate = `${many(tokens, "token")} in ${seconds(this.took)}`;
      const parts = [rate, many(own.rounds, "round"), version, own.exactness, `seed ${own.seed}`].filter(Boolean);
      line.append(`${parts.join(" · ")} · `, make("a", { href: "#time" }, "where the time went"));
    }
    if (this.usage?.flexspec.provisional) {
      const { provisional, provisional_confirmed: confirmed, provisional_stopped: why, local } = this.usage.flexspec;
      const what = `${many(provisional, "token")}${STOPPED[why] ?? ""}, ${confirmed} confirmed`;
      line.append(make("br"), `Written by ${local || "the draft"} alone: ${what}`);
    }
    this.node.append(bar, line);
  }
}

/** Says what a writer's mark means, once. @param {string} writer */
export function addToLegend(writer) {
  const legend = byId("legend");
  if (!(writer in WRITERS) || legend.querySelector(`[data-writer=${writer}]`)) return;
  const name = make("dt", { class: "mark", "data-writer": writer }, writer);
  legend.append(make("div", {}, name, make("dd", {}, WRITERS[writer])));
}

/** Changes the conversation; who looks at its end goes on to do so. @param {() => void} change */
export function atTheEnd(change) {
  const own = getComputedStyle(byId("scroll")).overflowY !== "visible";
  const box = own ? byId("scroll") : document.documentElement;
  const end = own ? box.scrollHeight : byId("chat").offsetTop + byId("chat").offsetHeight;
  const stay = box.scrollTop > end - box.clientHeight - 80;
  change();
  if (stay && own) box.scrollTop = box.scrollHeight;
  else if (stay) byId("chat").scrollIntoView({ block: "end" });
}
