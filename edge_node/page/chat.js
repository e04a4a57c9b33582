/** The conversation: questions, and answers whose every character says who wrote it. */
import { ApiError, request, serverSent } from "./api.js";
import { announce, byId, eachFrame, make, many, number, seconds } from "./dom.js";

/** @type {Record<string, string>} */
const WRITERS = {
  target: "the large model itself",
  device: "a draft on this device",
  lookup: "found in text that was there",
  worker: "the worker's own draft",
  grammar: "no other token was allowed",
  cloud: "sent again: worker or target",
};
/** Seconds for which a question waits for link or worker. */
const PATIENCE = 120;
/** Answers that are marked; older ones are plain text until somebody asks, so that long conversations stay light. */
const MARKED = 8;

/** One question and its answer. The parts of `text` have their writers in `writers` and their sizes in `sizes`. */
class Turn {
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
    this.cut = false;
    this.began = performance.now();
    this.answer = make("div", { class: "answer" });
    this.note = make("p", { class: "note" }, "Asking …");
    this.node = make("li", { class: "turn", "data-state": "waiting" },
      make("p", { class: "question" }, make("span", { class: "unseen" }, "You: "), question),
      make("p", { class: "unseen" }, "Answer: "), this.answer, this.note);
    this.draw = eachFrame(() => atTheEnd(() => this.drawNow()));
  }

  /** @returns {string} */
  get state() {
    return this.node.dataset.state;
  }

  /** @param {"waiting" | "writing" | "done" | "stopped" | "failed"} state @param {string} note */
  now(state, note) {
    this.node.dataset.state = state;
    this.note.textContent = note;
    this.note.hidden = !note;
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

  /** Draws what came since the last frame; neighbours of one writer are one node. */
  drawNow() {
    for (const [piece, writer] of this.coming.splice(0)) {
      const last = this.answer.lastElementChild;
      if (last?.dataset.writer === writer) last.firstChild.appendData(piece);
      else {
        addToLegend(writer);
        this.answer.append(make("span", { "data-writer": writer, title: WRITERS[writer] }, piece));
      }
    }
  }

  /** Leaves the text and its figures alone; a button brings the marks back. */
  fold() {
    this.node.querySelector(".shares")?.remove();
    if (this.note.hidden) this.note.remove();
    if (this.answer.childElementCount < 2) return;
    this.answer.replaceChildren(this.text);
    const button = make("button", { type: "button" }, "Who wrote what?");
    button.addEventListener("click", () => {
      byId("scroll").focus({ preventScroll: true });
      button.remove();
      this.answer.replaceChildren();
      let at = 0;
      this.writers.forEach((writer, part) => this.coming.push([this.text.slice(at, (at += this.sizes[part])), writer]));
      this.drawNow();
    });
    this.node.append(button);
  }

  /** @returns {[string, number][]} writers by their share of the characters */
  shares() {
    /** @type {Record<string, number>} */
    const sum = {};
    this.writers.forEach((writer, part) => (sum[writer] = (sum[writer] ?? 0) + this.sizes[part]));
    return Object.entries(sum).map(([writer, length]) => [writer, length / this.text.length]);
  }

  /** Says below the answer who wrote it, by which version, and what it took. @param {any} usage */
  sum(usage) {
    const shares = this.shares().sort((a, b) => b[1] - a[1]);
    const bar = make("div", { class: "shares", "aria-hidden": "true" });
    for (const [writer, share] of shares) {
      const part = make("span", { "data-writer": writer });
      part.style.flexGrow = String(share);
      bar.append(part);
    }
    const wrote = shares.map(([writer, share]) => `${writer} ${number(100 * share, 0)} %`).join(", ");
    const line = make("p", { class: "figures" }, wrote && `Written by ${wrote}`);
    if (usage) {
      const { completion_tokens: tokens, flexspec: own } = usage;
      const took = (performance.now() - this.began) / 1000;
      this.node.dataset.version = own.version;
      const known = [states.get(own.version), own.digest?.slice(0, 8)].filter(Boolean).join(", ");
      const version = `version ${own.version}${known && ` (${known})`}`;
      const rate = `${many(tokens, "token")} in ${seconds(took)}`;
      const parts = [rate, many(own.rounds, "round"), version, own.exactness, `seed ${own.seed}`].filter(Boolean);
      line.append(make("br"), `${parts.join(" · ")} · `, make("a", { href: "#time" }, "where the time went"));
    }
    this.node.append(bar, line);
  }
}

/** @type {Turn[]} */
let turns = [];
/** A name by which a family's canary takes a conversation as a whole, or not at all. */
let conversation = drawName();
/** States of the family's versions. @type {Map<string, string>} */
let states = new Map();
/** @type {AbortController | null} */
let writing = null;

/** Says what a writer's mark means, once. @param {string} writer */
function addToLegend(writer) {
  const legend = byId("legend");
  if (!(writer in WRITERS) || legend.querySelector(`[data-writer=${writer}]`)) return;
  const name = make("dt", { class: "mark", "data-writer": writer }, writer);
  legend.append(make("div", {}, name, make("dd", {}, WRITERS[writer])));
}

/** Changes the conversation; who looks at its end goes on to do so. @param {() => void} change */
function atTheEnd(change) {
  const own = getComputedStyle(byId("scroll")).overflowY !== "visible";
  const box = own ? byId("scroll") : document.documentElement;
  const end = own ? box.scrollHeight : byId("chat").offsetTop + byId("chat").offsetHeight;
  const stay = box.scrollTop > end - box.clientHeight - 80;
  change();
  if (stay && own) box.scrollTop = box.scrollHeight;
  else if (stay) byId("chat").scrollIntoView({ block: "end" });
}

/** @returns {Record<string, any>} what the options say of the request @throws {ApiError} a number that is none */
function options() {
  /** @type {Record<string, any>} */
  const asked = {};
  if (byId("model").value) asked.model = byId("model").value;
  for (const id of ["temperature", "seed", "max-tokens"]) {
    const typed = byId(id).value.trim();
    if (!typed) continue;
    const name = byId(id).labels[0].textContent.trim();
    const value = Number(typed);
    // Above 2^53 a script's numbers have gaps: another seed than the one that was typed would be sent.
    if (id === "temperature" ? !Number.isFinite(value) : !Number.isSafeInteger(value)) {
      throw new ApiError(`${name}: ${typed} is no ${id === "temperature" ? "number" : "whole number below 2^53"}.`, "");
    }
    asked[id.replace("-", "_")] = value;
  }
  return asked;
}

/** @param {Turn} turn @returns {{role: string, content: string}[]} what was said so far, failed answers left out */
function messages(turn) {
  const system = byId("system").value.trim();
  const said = system ? [{ role: "system", content: system }] : [];
  for (const { question, text, state } of turns) {
    if (!text || (state !== "done" && state !== "stopped")) continue;
    said.push({ role: "user", content: question }, { role: "assistant", content: text });
  }
  return [...said, { role: "user", content: turn.question }];
}

/** @param {Turn} turn @param {any} chunk @returns {any} the usage, in the chunk that has it */
function take(turn, chunk) {
  if (chunk.error) throw new ApiError(chunk.error.message, chunk.error.code);
  turn.id ||= chunk.id;
  const text = chunk.choices[0]?.delta.content;
  if (text) {
    if (turn.state !== "writing") turn.now("writing", "");
    for (const [piece, writer] of chunk.flexspec?.pieces ?? [[text, "target"]]) turn.add(piece, writer);
  }
  if (chunk.choices[0]?.finish_reason === "length") turn.cut = true;
  return chunk.usage ?? null;
}

/** Asks a question, and shows its answer as it comes. @param {string} question */
async function ask(question) {
  if (writing) return;
  const turn = new Turn(question);
  const stop = (writing = new AbortController());
  busy(true);
  byId("welcome").hidden = true;
  byId("conversation").append(turn.node);
  turn.node.scrollIntoView({ block: "nearest" });
  /** @type {any} */
  let usage = null;
  let whole = false;
  try {
    const body = {
      ...options(), messages: messages(turn), stream: true, wait: PATIENCE, prompt_cache_key: conversation,
      stream_options: { include_origin: true, include_usage: true },
    };
    turns.push(turn);
    const response = await request("v1/chat/completions", { body, signal: stop.signal });
    for await (const { data, comment } of serverSent(response)) {
      if (comment.startsWith("waiting")) {
        turn.now(turn.text ? "writing" : "waiting", `W${comment.slice(1)}. Nothing is lost.`);
      } else if (data === "[DONE]") whole = true;
      else if (data) {
        usage = take(turn, JSON.parse(data)) ?? usage;
        if (turn.text && turn.note.textContent) turn.now("writing", "");
      }
    }
    if (!whole) throw new ApiError("The answer broke off: the edge node went away.", "broken");
    turn.now("done", turn.cut ? "Cut at the limit of tokens." : turn.text ? "" : "The answer is empty.");
    announce(`Answer complete. ${turn.text}`);
  } catch (error) {
    if (stop.signal.aborted) turn.now("stopped", "Stopped.");
    else failed(turn, error instanceof ApiError ? error.message : `The answer broke off: ${error}.`);
  } finally {
    writing = null;
    busy(false);
    atTheEnd(() => {
      turn.drawNow();
      if (turn.text) turn.sum(usage);
      turns.at(-1 - MARKED)?.fold();
    });
  }
}

/**
 * Says why there is no answer. The question stands in its field again, if nothing else was typed.
 * @param {Turn} turn
 * @param {string} why
 */
function failed(turn, why) {
  atTheEnd(() => turn.now("failed", why));
  announce(`No answer: ${why}`);
  const prompt = byId("prompt");
  const again = make("button", { type: "button" }, "Ask again");
  again.addEventListener("click", () => {
    if (writing) return;
    if (prompt.value === turn.question) prompt.value = "";
    again.remove();
    prompt.focus();
    ask(turn.question);
  });
  atTheEnd(() => turn.node.append(again));
  if (!prompt.value.trim()) prompt.value = turn.question;
}

/** @param {boolean} is */
function busy(is) {
  byId("send").disabled = is;
  byId("stop").hidden = !is;
  byId("conversation").setAttribute("aria-busy", String(is));
}

function send() {
  const prompt = byId("prompt");
  const question = prompt.value.trim();
  if (!question || writing) return;
  prompt.value = "";
  ask(question);
}

function stop() {
  writing?.abort();
  byId("prompt").focus();
}

/** @returns {string} */
function drawName() {
  return [...crypto.getRandomValues(new Uint32Array(3))].map((part) => part.toString(36)).join("");
}

function begin() {
  writing?.abort();
  turns = [];
  conversation = drawName();
  byId("conversation").replaceChildren();
  byId("welcome").hidden = false;
  byId("prompt").focus();
}

/** Lists the models that can be asked for; with a family its names, and what each means. @param {any[]} models */
export function listModels(models) {
  states = new Map(models.filter(({ flexspec }) => flexspec).map(({ flexspec }) => [flexspec.version, flexspec.state]));
  const list = byId("model");
  const chosen = list.value;
  const named = models.map(({ id, flexspec }) => {
    if (!flexspec) return make("option", { value: id }, id);
    const { version, state, share } = flexspec;
    return make("option", { value: id }, `${id} (${version}, ${state}${share ? ` ${share} %` : ""})`);
  });
  list.replaceChildren(make("option", { value: "" }, "the node's own"), ...named);
  list.value = models.some(({ id }) => id === chosen) ? chosen : "";
}

/** The text that the node writes for this page, if it does: its events are told apart by this. @returns {string} */
export const ownText = () => turns.at(-1)?.id ?? "";

export function start() {
  for (const writer of ["target", "device", "lookup", "worker"]) addToLegend(writer);
  byId("composer").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    send();
  });
  byId("prompt").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && writing && !byId("key-dialog").open) stop();
  });
  byId("stop").addEventListener("click", stop);
  byId("new").addEventListener("click", begin);
}
