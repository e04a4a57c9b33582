/** Where the time of a text goes, in sentences for who has never heard of speculative decoding. */
import { many, number, seconds, span, times } from "./dom.js";

/**
 * @param {any} plan a plan of `schemas/plan.py`
 * @returns {string} who drafts, in a sentence
 */
export function planSentence(plan) {
  const { draft_length: length, in_flight: flight, ahead, worker_draft: own } = plan;
  const drafts = own ? ", with drafts of its own if it has a draft model" : "";
  const onwards = `The worker writes on without waiting for this device${drafts}.`;
  const meanwhile = ahead > 0 ? onwards : "The worker waits for each of them.";
  if (length) {
    const batches = flight > 1 ? `, up to ${flight} batches under way` : "";
    return `This device drafts ${many(length, "token")} at a time${batches}. ${meanwhile}`;
  }
  return `This device drafts nothing. ${ahead > 0 ? meanwhile : "The worker decides one token after another."}`;
}

/**
 * @param {any[]} alternatives
 * @returns {string} why it is this plan, in a sentence; empty where nothing was compared
 */
export function choiceSentence(alternatives) {
  const chosen = alternatives.find((way) => way.chosen);
  const other = alternatives.find((way) => !way.chosen && way.ms_per_token !== null && way.allowed !== false);
  if (chosen?.ms_per_token == null || !other) return "";
  const faster = chosen.ms_per_token <= other.ms_per_token;
  const than = faster ? "the next best way" : "another way, which is not better enough to change";
  return `It is expected to take ${span(chosen.ms_per_token)} a token; ${than} takes ${span(other.ms_per_token)}.`;
}

/**
 * Parts of a round in milliseconds, as far as they are known, the longest first.
 * @param {any} figures of the text
 * @param {any} plan of the text's version
 * @returns {{name: string, ms: number}[]}
 */
export function parts(figures, plan) {
  /** @param {...string} names */
  const known = (...names) =>
    names.map((name) => plan?.estimates?.[name]?.value).find((value) => value != null) ?? null;
  const does = figures.plan ?? plan?.plan;
  const found = [];
  if (!does?.ahead) found.push({ name: "to the worker and back", ms: figures.rtt_ms ?? known("rtt") });
  found.push({ name: "waiting for other texts there", ms: known("queueing_delay", "queue_mean") });
  found.push({ name: "the worker computes", ms: known("compute_mean", "forward") });
  const draft = known("draft_time");
  if (does?.draft_length && draft !== null) found.push({ name: "this device drafts", ms: draft * does.draft_length });
  return found.filter((part) => part.ms !== null && part.ms >= 0.5).sort((a, b) => b.ms - a.ms);
}

/** What each part is, and what would help. @type {Record<string, string>} */
const MEANS = {
  "to the worker and back": "the way to the worker and back, so a better network would help",
  "waiting for other texts there": "waiting for other texts at the worker, so more workers would help",
  "the worker computes": "the worker's computing, so a faster worker would help",
  "this device drafts": "drafting on this device",
};

/**
 * @param {any} text newest text of `schemas/node.py`
 * @param {any} plan of its version; undefined without one
 * @param {number} since seconds for which it has been in this state
 * @param {number[]} waited milliseconds for which it waited before its first token, and after it
 * @param {string} whom for whom it waited last
 * @returns {string}
 */
export function why(text, plan, since, waited, whom) {
  const { state, figures } = text;
  if (state === "waiting" || state === "queued") {
    const waits = `waiting for ${text.why || "its turn"} since ${seconds(since)}.`;
    if (!figures?.provisional) return `Nothing is written now: ${waits}`;
    return `Nothing is confirmed now: ${waits} The draft has written ${many(figures.provisional, "token")} alone.`;
  }
  if (state === "over" && text.why) return `The text ended by an error: ${text.why}.`;
  if (!figures) return "The question was just asked.";
  const { first_token: begun, prompt_tokens: asked } = figures;
  if (begun === null) return `The large model reads the question, ${many(asked, "token")}.`;
  const rounds = Math.max(figures.rounds, 1);
  const writing = Math.max(figures.seconds - figures.first_token - waited[1] / 1000, 0);
  const each = rounds > 1 ? (writing / (rounds - 1)) * 1000 : null;
  const count = number(figures.tokens / rounds);
  const brings = `${count} token${count === "1" ? "" : "s"}`;
  const said = [];
  const does = figures.plan ?? plan?.plan;
  if (each === null) said.push(`The first answer of the worker brought ${brings}.`);
  else if (does?.ahead) said.push(`The worker does not wait for this device: it sends ${brings} each ${span(each)}.`);
  else if (does?.in_flight > 1) {
    said.push(`A verdict comes each ${span(each)} and brings ${brings}; up to ${does.in_flight} are under way.`);
  } else said.push(`Each round trip takes ${span(each)} and brings ${brings}.`);
  const [longest] = parts(figures, plan);
  if (longest) {
    const most = longest.ms > (each ?? 0) / 2;
    said.push(`${most ? "Most of it is" : "The longest part that is known is"} ${MEANS[longest.name]}.`);
  }
  const first = figures.first_token - waited[0] / 1000;
  const long = (waited[0] + waited[1]) / 1000;
  if (long > 0.5) said.push(`It waited ${seconds(long)} for ${whom || "its turn"}.`);
  if (first > 0.25 * figures.seconds && first > 0.5) {
    const trip = (figures.rtt_ms ?? 0) / 1000;
    const way = trip > first / 2 && `${seconds(trip)} of it the way to the worker and back`;
    said.push(`The first token took ${seconds(first)}: ${way || "the question had to be read"}.`);
  }
  if (figures.reopens) said.push(`The node looked for another worker ${times(figures.reopens)}.`);
  else if (figures.polls) said.push(`The node asked again ${times(figures.polls)} after silence.`);
  return said.join(" ");
}
