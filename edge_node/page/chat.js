/** The conversation: asks questions, shows the answers as they come, and does what is wanted with them then. */
import { ApiError, backOff, request, serverSent } from "./api.js";
import { announce, byId, copy, make, number } from "./dom.js";
import * as kept from "./kept.js";
import { addToLegend, atTheEnd, shown, Turn } from "./turn.js";

/** Seconds for which a question waits for link or worker. */
const PATIENCE = 120;
const LOCAL = "local_only"; // model of questions that must not leave the device
const AWAY = "The edge node went away. The answer goes on when it is back.";
/** Answers that are marked; older ones are not until somebody asks, so that long conversations stay light. */
const MARKED = 8;
/** Whether writers are marked: what is remembered, and what an address such as `/?who=1` says before that. */
const WHO = "flexspec.who";

/** @type {Turn[]} */
let turns = [];
/** A name by which a family's canary takes a conversation as a whole, or not at all. */
let conversation = drawName();
/** The turn whose question is being changed. @type {Turn | null} */
let editing = null;
/** What stood in the field before. */
let typed = "";
/** @type {{turn: Turn, stop: AbortController} | null} */
let writing = null;

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
  const local = byId("model").value === LOCAL;
  for (const { question, text, state, usage } of turns) {
    if (usage?.flexspec.version === LOCAL && !local) continue; // it must not leave the device
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

/** Asks a question, and shows its answer. @param {string} question @param {boolean} [anew] with a new seed */
async function ask(question, anew = false) {
  if (writing) return;
  const turn = new Turn(question);
  await show(turn, "v1/chat/completions", { "idempotency-key": drawName() }, () => {
    const asked = options();
    if (anew) delete asked.seed;
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
  byId("welcome").hidden = byId("not-taken").hidden = true;
  byId("conversation").append(turn.node);
  turn.node.scrollIntoView({ block: "nearest" });
  /** @type {any} */
  let usage = null;
  try {
    turns.push(turn);
    const how = { body: asked(), headers, signal: stop.signal };
    save();
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
    turn.usage = usage;
    turn.took = (performance.now() - turn.began) / 1000;
    atTheEnd(() => {
      turn.over();
      turns.at(-1 - MARKED)?.fold();
    });
    save();
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
    if (!turn.id) {
      turn.id = response.headers.get("x-request-id") ?? "";
      save();
    }
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
    turn.now("unverified", "Nobody could be reached. The end is this device's alone, unverified.");
    announce(`Answer ends unverified. ${turn.text}${turn.provisional}`);
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
  if (!byId("prompt").value.trim()) byId("prompt").value = turn.question;
}

/** Does what a button of an answer is for. @param {Event} event */
function act({ target }) {
  const button = /** @type {Element} */ (target).closest("[data-act]");
  const turn = turns.find(({ node }) => node.contains(button));
  const name = button instanceof HTMLElement && button.dataset.act;
  if (!name || !turn) return;
  if (name === "copy") copy(turn.text + turn.provisional, button);
  else if (name === "code") copy(button.closest(".code")?.querySelector("code")?.textContent ?? "", button);
  else if (name === "who") {
    byId("scroll").focus({ preventScroll: true });
    turn.view(true);
  } else if (name === "edit") edit(turn);
  else if (!writing) {
    edit(null);
    cut(turn);
    if (byId("prompt").value === turn.question) byId("prompt").value = "";
    byId("prompt").focus();
    ask(turn.question, turn.state === "done" || Boolean(turn.text)); // one that failed is asked for again
  }
}

/** Takes a turn, and all behind it, out of the conversation. @param {Turn} turn */
function cut(turn) {
  const at = turns.indexOf(turn);
  for (const { node } of at < 0 ? [turn] : turns.splice(at)) node.remove();
}

/** Puts an earlier question into the field, or what stood there back. @param {Turn | null} turn */
function edit(turn) {
  const prompt = byId("prompt");
  if (turn && !editing) typed = prompt.value === turn.question ? "" : prompt.value;
  if (turn) prompt.value = turn.question;
  else if (editing) prompt.value = typed;
  editing?.node.removeAttribute("data-editing");
  turn?.node.setAttribute("data-editing", "");
  editing = turn;
  byId("editing").hidden = !turn;
  if (turn) prompt.focus();
}

/** @param {boolean} is */
function busy(is) {
  byId("send").disabled = is;
  byId("stop").hidden = !is;
  byId("earlier").disabled = is;
  byId("conversation").setAttribute("aria-busy", String(is));
}

function send() {
  const prompt = byId("prompt");
  const question = prompt.value.trim();
  if (!question || writing) return;
  const instead = editing;
  edit(null);
  if (instead) cut(instead);
  else prompt.value = "";
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

/** Says that files are not read. A browser would leave the page for one that is dropped. @param {any} event */
function refuse(event) {
  const { types, files } = event.clipboardData ?? event.dataTransfer;
  // Cells of a table are pasted as their text, although they come as an image as well.
  if (!types.includes("Files") || (event.type === "paste" && types.includes("text/plain"))) return;
  event.preventDefault();
  if (event.type === "dragover") return;
  const names = [...files].map((/** @type {File} */ { name }) => name).join(", ");
  const words = `Not taken: ${names}. Models here read text only. Say in words what it shows, or paste its text.`;
  byId("not-taken").textContent = words;
  byId("not-taken").hidden = false;
  announce(words);
}

/** @returns {string} */
function drawName() {
  return [...crypto.getRandomValues(new Uint32Array(3))].map((part) => part.toString(36)).join("");
}

/** @param {kept.Kept} [earlier] none: begins a new conversation */
function begin(earlier) {
  stop();
  save();
  edit(null);
  conversation = earlier?.name ?? drawName();
  turns = (earlier?.turns ?? []).map((turn, at, all) => Turn.from(turn, at === all.length - 1));
  byId("conversation").replaceChildren(...turns.map(({ node }) => node));
  for (const turn of turns.slice(0, -MARKED)) turn.fold();
  byId("welcome").hidden = turns.length > 0;
  byId("not-taken").hidden = true;
  byId("prompt").focus();
  const last = turns.at(-1);
  if (last?.state === "waiting") {
    cut(/** @type {Turn} */ (turns.pop()));
    show(last, `v1/outbox/${last.box}`, { accept: "text/event-stream" });
  }
  last?.node.scrollIntoView({ block: "end" });
  listEarlier();
}

/** Keeps the conversation, if that is switched on. */
function save() {
  if (kept.isOn()) kept.keep({ name: conversation, turns: turns.map((turn) => turn.kept) });
  listEarlier();
}

/** Lists the conversations that are kept, and offers to forget them. */
function listEarlier() {
  const [is, list] = [kept.isOn(), kept.all()];
  byId("keep").checked = is;
  byId("forget").hidden = byId("earlier").hidden = !is;
  const named = list.map(({ name, turns: [{ question }] }) => make("option", { value: name }, question.slice(0, 60)));
  const own = list.some(({ name }) => name === conversation);
  byId("earlier").replaceChildren(...(own ? [] : [make("option", { value: "" }, "Earlier ones")]), ...named);
  byId("earlier").value = own ? conversation : "";
}

/** Removes all conversations: those that are kept, the one that is shown, and what the node still has of them. */
async function forget() {
  const ids = [...kept.all().flatMap((each) => each.turns), ...turns].map(({ id }) => id.split("-").at(-1));
  kept.forget();
  byId("prompt").value = byId("system").value = "";
  begin();
  mark(false);
  announce("All conversations are forgotten.");
  for (const id of new Set(ids.filter(Boolean))) {
    await request(`v1/outbox/${id}`, { method: "DELETE" }).catch(() => {});
  }
}

/** Marks who wrote what, or shows Markdown. @param {boolean} who */
function mark(who) {
  shown.who = byId("who").checked = who;
  byId("chat").classList.toggle("who", who);
  turns.forEach((turn, at) => turn.view(who && at >= turns.length - MARKED));
}

/**
 * Lists the models that can be asked for, by their targets' names; with a family its names, and what each means.
 * @param {any[]} models
 * @param {string} own name that a request without one means
 * @param {any[]} workers their statuses
 */
export function listModels(models, own, workers) {
  const versions = models.flatMap(({ flexspec }) => (flexspec ? [[flexspec.version, flexspec.state]] : []));
  shown.states = new Map(/** @type {[string, string][]} */ (versions));
  const list = byId("model");
  const chosen = list.value;
  const option = (/** @type {any} */ { id, max_model_len: room, flexspec }) => {
    const version = flexspec?.version ?? id;
    const serves = workers.find((one) => [one.version, ...(one.versions ?? []).map((/** @type {any} */ each) => each.name)]
      .includes(version));
    const meant = flexspec ? `${version}, ${flexspec.state}${flexspec.share ? ` ${flexspec.share} %` : ""}` : "";
    const name = [id, meant && `(${meant})`, id === own && "(the node's own)"].filter(Boolean).join(" ");
    const size = room ? `${number(room, 0)} tokens` : "";
    const what = [serves?.target, size].filter(Boolean).join(", ");
    return make("option", { value: id === own ? "" : id }, what ? `${what}: ${name}` : name);
  };
  const [first, others] = [models.find(({ id }) => id === own) ?? { id: own }, models.filter(({ id }) => id !== own)];
  list.replaceChildren(...[first, ...others].map(option));
  list.value = others.some(({ id }) => id === chosen) ? chosen : "";
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
    if (event.key !== "Escape" || byId("key-dialog").open) return;
    if (writing) stop();
    else edit(null);
  });
  for (const kind of ["dragover", "drop", "paste"]) document.addEventListener(kind, refuse);
  byId("stop").addEventListener("click", stop);
  byId("new").addEventListener("click", () => begin());
  byId("conversation").addEventListener("click", act);
  byId("edit-cancel").addEventListener("click", () => edit(null));
  for (const example of document.querySelectorAll("#examples button")) {
    example.addEventListener("click", () => ask(example.textContent ?? ""));
  }
  byId("who").addEventListener("change", () => {
    localStorage.setItem(WHO, byId("who").checked ? "1" : "0");
    mark(byId("who").checked);
  });
  byId("keep").addEventListener("change", () => {
    if (!byId("keep").checked) {
      forget();
      return;
    }
    kept.keep();
    save();
  });
  byId("forget").addEventListener("click", forget);
  byId("earlier").addEventListener("change", () => {
    const found = kept.all().find(({ name }) => name === byId("earlier").value);
    if (found) begin(found);
  });
  kept.onForget(() => begin());
  mark((localStorage.getItem(WHO) ?? new URLSearchParams(location.search).get("who")) === "1");
  begin(kept.isOn() ? kept.all()[0] : undefined);
}
