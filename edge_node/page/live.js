/** Live figures: link, rate, the last minute, where the time goes, the plan; and what keeps everybody waiting. */
import { ownText } from "./chat.js";
import { announce, byId, clock, eachFrame, make, many, number, redraw, say, seconds, span, times } from "./dom.js";
import { choiceSentence, parts, planSentence, why } from "./why.js";

const BIN = 500;
const BINS = 120;
/** Tokens that come together are shown over this many milliseconds at most. */
const SPREAD = 5000;
const WRITERS = /** @type {const} */ (["target", "worker", "device", "lookup", "grammar"]);
const TEXTS = 8;
const LINES = 30;
const BACK_FOR = 10_000;
/** A node that nobody looked at knows of no worker yet: it is given this long, in milliseconds. */
const GRACE = 3000;

/** @type {any} */
let node = null;
/** @type {any[]} */
let plans = [];
/** @typedef {{view: any, at: number, since: number, waited: number[], whom: string}} Text its newest view, when that came,
 * when its state began, and milliseconds for which it waited before its first token and after it */
/** @type {Map<string, Text>} newest texts by id */
const texts = new Map();
/** When the link came up or was lost, on this clock. */
let linkSince = Date.now();
/** @type {string | null} */
let lost = null;

/** @typedef {{at: number, out: boolean, wait: boolean, counts: Record<string, number>}} Bin */
/** @type {Bin[]} a ring of half seconds */
const bins = [];
/** When the stream of events began, on this clock. */
let connected = Date.now();

/** @param {number} [time] in milliseconds @returns {Bin} */
function bin(time = Date.now()) {
  const at = Math.floor(time / BIN);
  if (bins[at % BINS]?.at !== at) bins[at % BINS] = { at, out: false, wait: false, counts: {} };
  return bins[at % BINS];
}

/**
 * Counts what was written since the last view, or since the first token of a text that began before our eyes.
 * @param {any} figures
 * @param {Text | undefined} last
 */
function count(figures, last) {
  const now = Date.now();
  const began = now - (figures.seconds - (figures.first_token ?? 0)) * 1000;
  if (!last && began < connected) return;
  const [before, after] = [written(last?.view.figures), written(figures)];
  const steps = Math.floor(now / BIN) - Math.floor(Math.max(last?.at ?? began, now - SPREAD) / BIN) + 1;
  for (let step = 0; step < steps; step += 1) {
    const { counts } = bin(now - step * BIN);
    for (const writer of WRITERS) counts[writer] = (counts[writer] ?? 0) + Math.max(after[writer] - before[writer], 0) / steps;
  }
}

/** @param {any} figures @returns {Record<string, number>} tokens by who wrote them */
function written(figures) {
  if (!figures) return { lookup: 0, worker: 0, grammar: 0, device: 0, target: 0 };
  const { tokens, accepted: right, looked_up: lookup, worker_accepted: worker, forced: grammar } = figures;
  const device = Math.max(right - lookup, 0);
  return { lookup, worker, grammar, device, target: Math.max(tokens - device - lookup - worker - grammar, 0) };
}

/** Adds a line to what happened. @param {string} words @param {string} [kind] a line replaces one of its kind before it */
export function happened(words, kind = "") {
  const list = byId("happened");
  if (kind && list.firstElementChild?.dataset.kind === kind) list.firstElementChild.remove();
  list.prepend(make("li", { "data-kind": kind || null }, make("time", {}, clock()), make("span", {}, words)));
  while (list.childElementCount > LINES) list.lastElementChild.remove();
}

/** @type {Record<string, (view: any) => void>} */
const SEEN = {
  node(view) {
    const before = node?.link;
    node = view;
    linkSince = Date.now() - view.link.seconds * 1000;
    if (before?.up && view.link.up && view.link.losses > before.losses) happened("The link was lost, and came back at once");
  },
  plan(view) {
    const before = plans.find((plan) => plan.under_way)?.plan.does;
    plans = view.data;
    const now = plans.find((plan) => plan.under_way)?.plan.does;
    if (now && before && now !== before) happened(`Another plan: ${now}`, "plan");
  },
  text(view) {
    const last = texts.get(view.id);
    const same = last && last.view.state === view.state && last.view.why === view.why;
    if (view.figures) count(view.figures, last);
    const now = Date.now();
    const text = { view, at: now, since: same ? last.since : now, waited: last?.waited ?? [0, 0], whom: last?.whom ?? "" };
    if (last && !same && ["waiting", "queued"].includes(last.view.state)) {
      text.waited[last.view.figures?.first_token == null ? 0 : 1] += now - last.since;
      text.whom = last.view.why || text.whom;
    }
    texts.delete(view.id);
    texts.set(view.id, text);
    if (texts.size > TEXTS) texts.delete(texts.keys().next().value ?? "");
  },
};

/** The text that is shown: the page's own while it is written, else another that is, else the last one. */
function shownText() {
  const all = [...texts.values()];
  const going = all.filter(({ view }) => view.state !== "over");
  return going.find(({ view }) => ownText().endsWith(view.id)) ?? going.at(-1) ?? all.at(-1);
}

/** @param {string} kind @param {any} view */
export function seen(kind, view) {
  SEEN[kind]?.(view);
  draw();
}

/** @param {string | null} why there are no events; null when they come */
export function unreachable(why) {
  if (why === null) connected = Date.now();
  lost = why;
  draw();
}

/** @type {{kind: string, since: number} | null} */
let trouble = null;
let backUntil = 0;
let unreadySince = Date.now();

/** @returns {{kind: string, words: string} | null} what holds everything up now */
function troubled() {
  if (lost !== null || !node?.link.up || !node.not_ready) unreadySince = Date.now();
  if (lost !== null) return { kind: "node", words: lost };
  if (node && !node.link.up) {
    const words = "No link to the broker. Texts wait and go on by themselves, nothing is lost; what you ask now waits too.";
    return { kind: "link", words };
  }
  const lasts = Date.now() - unreadySince > GRACE;
  return lasts ? { kind: "ready", words: `No text can be written now: ${node.not_ready}.` } : null;
}

/** @type {Record<string, string>} */
const BACK = {
  node: "The edge node is back", link: "The link to the broker is back", ready: "Texts can be written again",
};

function drawBanner() {
  const banner = byId("banner");
  const now = troubled();
  if (now?.kind !== trouble?.kind) {
    if (trouble && !(now && trouble.kind === "ready")) {
      const words = `${BACK[trouble.kind]} after ${seconds((Date.now() - trouble.since) / 1000)}.`;
      happened(words);
      if (!now) {
        announce(words);
        say(byId("banner-words"), words);
        say(byId("banner-time"), "");
        banner.dataset.kind = "back";
        backUntil = Date.now() + BACK_FOR;
      }
    }
    trouble = now && { kind: now.kind, since: now.kind === "link" ? linkSince : Date.now() };
    if (now) {
      happened(now.words);
      announce(now.words);
      banner.dataset.kind = now.kind;
    }
  }
  banner.hidden = !trouble && Date.now() > backUntil;
  if (!now || !trouble) return;
  say(byId("banner-words"), now.words);
  say(byId("banner-time"), `for ${seconds((Date.now() - trouble.since) / 1000)}`);
}

function drawLink() {
  const state = lost !== null || !node ? "unknown" : node.link.up ? "up" : "down";
  byId("link").dataset.state = state;
  say(byId("link-words"), { up: "Link up", down: "Link down", unknown: node ? "Node away" : "Connecting" }[state] ?? "");
  if (!node) return;
  say(byId("edge"), `${node.edge} · ${node.model}${node.draft === "none" ? "" : ` · draft ${node.draft}`}`);
  say(byId("since-title"), node.link.up ? "Link up for" : "Link down for");
  const losses = node.link.losses ? `lost ${times(node.link.losses)}` : "never lost";
  tile("since", seconds((Date.now() - linkSince) / 1000), losses);
}

/** @param {string} id @param {string} value @param {string} [more] */
function tile(id, value, more = "") {
  redraw(byId(id), [value, more], () => (more ? [value, " ", make("small", {}, more)] : [value]));
}

/** @param {any} figures */
function drawTiles(figures) {
  const writing = figures?.first_token != null ? figures.seconds - figures.first_token : 0;
  tile("tokens-per-second", writing > 0.05 ? number(figures.tokens / writing) : "–");
  if (figures?.rounds) tile("tokens-per-round", number(figures.tokens / figures.rounds), `in ${many(figures.rounds, "round")}`);
  else tile("tokens-per-round", "–");
  tile("round-trip", span(figures?.rtt_ms ?? node?.link.rtt_ms));
  const drafted = figures ? figures.accepted + figures.worker_accepted : 0;
  const judged = figures?.drafted ? `here ${figures.accepted} of ${figures.drafted} right` : "none from this device";
  tile("accepted", figures?.tokens ? `${number((100 * drafted) / figures.tokens, 0)} %` : "–", judged);
  const source = figures?.energy_source ?? node?.energy_source ?? "none";
  const each = figures?.energy_j_per_100;
  const [joules, unit] = each != null ? [each, "J per 100 tokens"] : [node?.energy_j, "J so far"];
  const battery = node?.battery == null ? "" : `, battery ${number(node.battery, 0)} %`;
  tile("energy", number(joules), source === "none" ? "not told here" : `${unit}, ${source.split(":")[0]}${battery}`);
}

function drawTimeline() {
  const first = Math.floor(Date.now() / BIN) - BINS + 1;
  const shown = bins.filter(({ at }) => at >= first);
  const sums = shown.map(({ counts }) => WRITERS.reduce((sum, writer) => sum + (counts[writer] ?? 0), 0));
  const most = Math.max(...sums, 4);
  const svg = byId("timeline");
  const paths = Object.fromEntries([...WRITERS, "out", "wait"].map((name) => [name, ""]));
  for (const { at, out, wait, counts } of shown) {
    const x = (at - first) * 3;
    if (out) paths.out += `M${x} 0h3v72h-3z`;
    else if (wait) paths.wait += `M${x} 0h3v72h-3z`;
    let y = 72;
    for (const writer of WRITERS) {
      const high = ((counts[writer] ?? 0) / most) * 66;
      if (high) paths[writer] += `M${x} ${(y -= high).toFixed(1)}h2.4v${high.toFixed(1)}h-2.4z`;
    }
  }
  for (const writer of WRITERS) svg.querySelector(`[data-writer="${writer}"]`).setAttribute("d", paths[writer]);
  svg.querySelector(".outages").setAttribute("d", paths.out);
  svg.querySelector(".waits").setAttribute("d", paths.wait);
  const total = sums.reduce((sum, each) => sum + each, 0);
  say(byId("peak"), total ? `up to ${number(Math.max(...sums) * (1000 / BIN), 0)} tokens a second` : "");
  const away = shown.filter(({ out }) => out).length * (BIN / 1000);
  const label = `${many(total, "token")} in the last minute${away ? `, and an outage of ${seconds(away)}` : ""}`;
  if (svg.getAttribute("aria-label") !== label) svg.setAttribute("aria-label", label);
}

/** @param {Text} text @param {any} plan of its version */
function drawWhy(text, plan) {
  const { view, since, waited, whom } = text;
  say(byId("time"), view.state === "over" ? "Where the time of the last answer went" : "Where the time goes");
  say(byId("why"), why(view, plan, (Date.now() - since) / 1000, waited, whom));
  const computes = view.figures?.rounds && (view.state === "writing" || (view.state === "over" && !view.why));
  const found = computes ? parts(view.figures, plan) : [];
  const most = Math.max(...found.map(({ ms }) => ms), 1);
  const told = found.map(({ name, ms }) => [name, span(ms), String(Math.round((100 * ms) / most))]);
  redraw(byId("parts"), told, () => told.map(([name, ms, width]) => {
    const bar = make("dd", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${width}%`;
    return make("div", {}, make("dt", {}, name), bar, make("dd", {}, ms));
  }));
}

/** @param {any} plan newest plan of the shown text's version */
function drawPlan(plan) {
  if (!plan) return;
  say(byId("plan"), `${planSentence(plan.plan)} ${choiceSentence(plan.alternatives)}`);
  byId("choice").hidden = !plan.alternatives.length;
  redraw(byId("alternatives").tBodies[0], plan.alternatives, () => plan.alternatives.map((/** @type {any} */ way) => {
    const name = `${way.chosen ? "✓ " : ""}${way.name}${way.allowed ? "" : " (a limit excludes it)"}`;
    const cells = [make("td", {}, name), make("td", {}, number(way.ms_per_token))];
    return make("tr", { "aria-current": way.chosen && "true" }, ...cells);
  }));
  const limits = plan.limits.length ? plan.limits : node?.limits ?? [];
  redraw(byId("limits"), limits, () => limits.map((/** @type {any} */ { name, limit, unit, state, value }) => {
    const words = `${name} of ${number(limit)} ${unit}: ${state}`.replaceAll("_", " ");
    return make("li", {}, value == null ? words : `${words}, ${number(value, 2)} so far`);
  }));
}

/** Draws all of it, at most once a frame. */
const draw = eachFrame(() => {
  drawBanner();
  drawLink();
  const shown = shownText();
  const written = shown?.view.figures?.version;
  const plan = plans.find(({ version }) => version === written) ?? plans.find(({ under_way: is }) => is) ?? plans[0];
  drawTiles(shown?.view.figures);
  drawTimeline();
  if (shown) drawWhy(shown, plan);
  drawPlan(plan);
});

export function start() {
  setInterval(() => {
    const now = bin();
    now.out ||= lost !== null || (node !== null && !node.link.up);
    now.wait ||= [...texts.values()].some(({ view }) => view.state === "waiting");
    draw();
  }, BIN);
}
