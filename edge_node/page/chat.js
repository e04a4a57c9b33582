/** The conversation: questions, and answers whose every character says who wrote it. */
import { ApiError, backOff, request, serverSent } from "./api.js";
import { announce, byId, eachFrame, make, many, number, seconds } from "./dom.js";

/** @type {Record<string, string>} */
const WRITERS = {
  target: "the large model itself",
  device: "a draft on this device",
  lookup: "found in text that was there",
  worker: "the worker's own draft",
  grammar: "no other token was allowed",
  cloud: "sent again: worker or target",
  unverified: "the draft alone, not confirmed",
};
/** Seconds for which a question waits for link or worker. */
const PATIENCE = 120;
const ALONE = "Nobody can be reached: the draft on this device writes on alone, unverified.";
const AWAY = "The edge node went away. The answer goes on when it is back.";
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
    /** Id of the last event, behind which a stream goes on. */
    this.place = "";
    this.reason = "";
    this.provisional = "";
    this.draft = make("span", { "data-writer": "unverified", title: ALONE });
    this.began = performance.now();
    this.answer = make("div", { class: "answer" });
    this.note = make("p", { class: "note" }, "Asking …");
    this.node = make("li", { class: "turn", "data-state": "waiting" },
      make("p", { class: "question" }, make("span", { class: "unseen" }, "You: "), question),
      make("p", { class: "unseen" }, "Answer: "), this.answer, this.note);
    this.draw = eachFrame(() => atTheEnd(() => this.drawNow()));
  }

  /** Name of the text in the node's outbox. @returns {string} */
  get box() {
    return this.id.split("-").at(-1) ?? "";
  }

  /** @returns {string} */
  get state() {
    return this.node.dataset.state;
  }

  /** @param {"waiting" | "writing" | "done" | "unverified" | "stopped" | "failed"} state @param {string} note */
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

  /** Draws what came since the last frame; neighbours of one writer are one node. */
  drawNow() {
    this.draft.remove();
    for (const [piece, writer] of this.coming.splice(0)) {
      const last = this.answer.lastElementChild;
      if (last?.dataset.writer === writer) last.firstChild.appendData(piece);
      else {
        addToLegend(writer);
        this.answer.append(make("span", { "data-writer": writer, title: WRITERS[writer] }, piece));
      }
    }
    if (!this.provisional) return;
    addToLegend("unverified");
    this.draft.replaceChildren(make("span", { class: "unseen" }, "Unverified: "), this.provisional);
    this.answer.append(this.draft);
  }

  /** Leaves the text and its figures alone; a button brings the marks back. */
  fold() {
    this.node.querySelector(".shares")?.remove();
    if (this.note.hidden) this.note.remove();
    if (this.answer.childElementCount < 2 || this.provisional) return;
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
    if (usage?.flexspec.provisional) {
      const { provisional, provisional_confirmed: confirmed } = usage.flexspec;
      line.append(make("br"), `Written by the draft alone: ${many(provisional, "token")}, ${confirmed} confirmed`);
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
/** @type {{turn: Turn, stop: AbortController} | null} */
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
  const asked = { offline: byId("offline").value };
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
    if (!text || !["done", "stopped", "unverified"].includes(state)) continue;
    said.push({ role: "user", content: question }, { role: "assistant", content: text });
  }
  return [...said, { role: "user", content: turn.question }];
}

/** @param {Turn} turn @param {any} chunk @returns {any} the usage, in the chunk that has it */
function take(turn, chunk) {
  if (chunk.error) throw new ApiError(chunk.error.message, chunk.error.code);
  const [choice] = chunk.choices;
  const text = choice?.delta.content;
  if (text) {
    turn.now("writing", "");
    turn.confirm(text);
    for (const [piece, writer] of chunk.flexspec?.pieces ?? [[text, "target"]]) turn.add(piece, writer);
  }
  if (chunk.flexspec?.provisional) turn.unverified(chunk.flexspec.provisional);
  turn.reason = choice?.finish_reason ?? turn.reason;
  return chunk.usage ?? null;
}

/** Asks a question, and shows its answer as it comes. @param {string} question */
async function ask(question) {
  if (writing) return;
  const turn = new Turn(question);
  await show(turn, "v1/chat/completions", { "idempotency-key": drawName() }, () => {
    const asked = options();
    return {
      ...asked, messages: messages(turn), stream: true, prompt_cache_key: conversation,
      wait: asked.offline === "deliver" ? undefined : PATIENCE, // a delivery waits for as long as the outbox keeps it
      stream_options: { include_origin: true, include_usage: true },
    };
  });
}

/** Shows a text of the node's outbox, to its end. @param {string} path of it */
export async function open(path) {
  if (writing) return;
  const { request: asked } = await (await request(path)).json();
  await show(new Turn(asked.spec.prompt.at(-1).content), path, { accept: "text/event-stream" });
}

/**
 * Shows an answer as it comes. A stream that breaks is read on behind what has come.
 * @param {Turn} turn
 * @param {string} path
 * @param {Record<string, string>} headers
 * @param {() => object | null} [asked] the request's body
 */
async function show(turn, path, headers, asked = () => null) {
  const stop = new AbortController();
  writing = { turn, stop };
  busy(true);
  byId("welcome").hidden = true;
  byId("conversation").append(turn.node);
  turn.node.scrollIntoView({ block: "nearest" });
  /** @type {any} */
  let usage = null;
  try {
    const how = { body: asked(), headers, signal: stop.signal };
    turns.push(turn);
    let whole = null;
    for (let tries = 0; !(whole = await read(turn, path, how)); tries += 1) {
      turn.now("waiting", AWAY);
      await backOff(tries);
      how.headers = { ...headers, ...(turn.place && { "last-event-id": turn.place }) };
    }
    usage = whole.usage;
    ended(turn);
  } catch (error) {
    if (stop.signal.aborted || turn.state === "stopped") turn.now("stopped", "Stopped.");
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
 * Reads a stream to its end.
 * @param {Turn} turn
 * @param {string} path
 * @param {Parameters<typeof request>[1]} how
 * @returns {Promise<{usage: any} | null>} null where it broke off, and can be read on
 */
async function read(turn, path, how) {
  let usage = null;
  try {
    const response = await request(path, how);
    turn.id ||= response.headers.get("x-request-id") ?? "";
    if (turn.state === "stopped") stop();
    for await (const { data, comment, id } of serverSent(response)) {
      turn.place = id || turn.place;
      if (comment.startsWith("waiting")) {
        turn.now(turn.text ? "writing" : "waiting", `W${comment.slice(1)}. Nothing is lost.`);
      } else if (data === "[DONE]") return { usage };
      else if (data) usage = take(turn, JSON.parse(data)) ?? usage;
    }
  } catch (error) {
    const broke = !(error instanceof ApiError) || ["unreachable", "stopping"].includes(error.code);
    if (how?.signal?.aborted || !broke || !turn.id) throw error;
  }
  return null;
}

/** Says how an answer ended. @param {Turn} turn */
function ended(turn) {
  if (turn.reason === "provisional") {
    turn.now("unverified", "Nobody could be reached. The end is the draft's alone, unverified.");
    announce(`Answer ends unverified. ${turn.text}${turn.provisional}`);
    offerAgain(turn);
    return;
  }
  turn.now("done", turn.reason === "length" ? "Cut at the limit of tokens." : turn.text ? "" : "The answer is empty.");
  announce(`Answer complete. ${turn.text}`);
}

/**
 * Says why there is no answer. The question stands in its field again, if nothing else was typed.
 * @param {Turn} turn
 * @param {string} why
 */
function failed(turn, why) {
  atTheEnd(() => turn.now("failed", why));
  announce(`No answer: ${why}`);
  offerAgain(turn);
  if (!byId("prompt").value.trim()) byId("prompt").value = turn.question;
}

/** @param {Turn} turn */
function offerAgain(turn) {
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

/** Ends the answer that is written, at the node as well: a text goes on there when nobody reads it. */
function stop() {
  if (!writing) return;
  const { turn, stop: reading } = writing;
  turn.now("stopped", "Stopped.");
  byId("prompt").focus();
  if (!turn.id) return; // the node has not answered yet: it is told when it does
  request(`v1/outbox/${turn.box}`, { method: "DELETE" }).catch(() => {});
  reading.abort();
}

/** @returns {string} */
function drawName() {
  return [...crypto.getRandomValues(new Uint32Array(3))].map((part) => part.toString(36)).join("");
}

function begin() {
  stop();
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

/** Whether this page shows a text of the outbox. @param {string} id */
export const shows = (id) => turns.some(({ box }) => box === id);

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
