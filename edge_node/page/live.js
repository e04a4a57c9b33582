/** Live figures: the link, the newest text, where its time goes, and the plan. */
import { ownText } from "./chat.js";
import { byId, clock, eachFrame, make, many, number, redraw, say, seconds, span } from "./dom.js";
import * as news from "./news.js";
import * as timeline from "./timeline.js";

const TEXTS = 8;
/** Part of a round whose time is the round trip. */
const WAY = "to the worker and back";

/** @type {any} */
let node = null;
/** @type {any[]} */
let plans = [];
/** @type {Map<string, {view: any, at: number}>} newest views of texts by id, and when they came */
const texts = new Map();
/** When the link came up or was lost, on this clock. */
let linkSince = Date.now();
/** @type {string | null} */
let lost = null;

/** When the stream of events began, on this clock. */
let connected = Date.now();

/** @type {Record<string, (view: any) => void>} */
const SEEN = {
  node(view) {
    const before = node?.link;
    node = view;
    linkSince = Date.now() - view.link.seconds * 1000;
    const flapped = before?.up && view.link.up && view.link.losses > before.losses;
    if (flapped) news.happened("The link was lost, and came back at once");
  },
  plan(view) {
    const before = plans.find((plan) => plan.under_way)?.plan.does;
    plans = view.data;
    const now = plans.find((plan) => plan.under_way)?.plan.does;
    if (now && before && now !== before) news.happened(`Another plan: ${now}`, "plan");
  },
  text(view) {
    if (view.figures) timeline.count(view, texts.get(view.id), connected);
    texts.delete(view.id);
    texts.set(view.id, { view, at: Date.now() });
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
  if (why === null) {
    connected = Date.now();
    // A node that was started anew never tells their end; the same one tells again what it writes.
    for (const [id, { view }] of texts) if (view.state !== "over") texts.delete(id);
  }
  lost = why;
  draw();
}

function drawLink() {
  const state = lost !== null || !node ? "unknown" : node.connection.state;
  byId("link").dataset.state = state;
  /** @type {Record<string, string>} */
  const words = { online: "Online", degraded: "Degraded", offline: "Offline", unknown: "Node away" };
  say(byId("link-words"), node ? words[state] : "Connecting");
  if (!node) return;
  const since = [`since ${clock(node.connection.since)}`, node.connection.why].filter(Boolean).join(": ");
  byId("link").title = state === "unknown" ? "" : since;
  const draft = node.draft === "none" ? "" : ` · draft ${node.draft.split("/").at(-1)}`; // where it lies is the node's
  say(byId("edge"), `${node.edge} · ${node.model}${draft}`);
  say(byId("since-title"), node.link.up ? "Link up for" : "Link down for");
  const losses = node.link.losses ? `lost ${many(node.link.losses, "time")}` : "never lost";
  tile("since", seconds((Date.now() - linkSince) / 1000), losses);
}

/** @param {string} id @param {string} value @param {string} [more] */
function tile(id, value, more = "") {
  redraw(byId(id), [value, more], () => (more ? [value, " ", make("small", {}, more)] : [value]));
}

/** @param {any} text newest view of the shown text */
function drawTiles(text) {
  const figures = text?.figures;
  tile("tokens-per-second", number(text?.tokens_per_second));
  tile("tokens-per-round", number(text?.tokens_per_round), figures?.rounds ? `in ${many(figures.rounds, "round")}` : "");
  tile("round-trip", span(text?.parts[WAY] ?? figures?.rtt_ms ?? node?.link.rtt_ms));
  const drafted = figures ? figures.accepted + figures.worker_accepted : 0;
  const judged = figures?.drafted ? `here ${figures.accepted} of ${figures.drafted} right` : "none from this device";
  tile("accepted", figures?.tokens ? `${number((100 * drafted) / figures.tokens, 0)} %` : "–", judged);
  const source = figures?.energy_source ?? node?.energy_source ?? "none";
  const each = figures?.energy_j_per_100;
  const [joules, unit] = each != null ? [each, "J per 100 tokens"] : [node?.energy_j, "J so far"];
  const battery = node?.battery == null ? "" : `, battery ${number(node.battery, 0)} %`;
  tile("energy", number(joules), source === "none" ? "not told here" : `${unit}, ${source.split(":")[0]}${battery}`);
}

/** @param {any} text newest view of the shown text */
function drawTime({ state, time, parts }) {
  say(byId("time"), state === "over" ? "Where the time of the last answer went" : "Where the time goes");
  say(byId("why"), time);
  const most = Math.max(...Object.values(parts));
  const told = Object.entries(parts).map(([name, ms]) => [name, span(ms), String(Math.round((100 * ms) / most))]);
  redraw(byId("parts"), told, () => told.map((/** @type {string[]} */ [name, ms, width]) => {
    const bar = make("dd", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${width}%`;
    return make("div", {}, make("dt", {}, name), bar, make("dd", {}, ms));
  }));
}

/** @param {any} plan newest plan of the shown text's version */
function drawPlan(plan) {
  if (!plan) return;
  say(byId("plan"), plan.words);
  byId("choice").hidden = !plan.alternatives.length;
  redraw(byId("alternatives").tBodies[0], plan.alternatives, () => plan.alternatives.map((/** @type {any} */ way) => {
    const name = `${way.chosen ? "✓ " : ""}${way.name}${way.allowed ? "" : " (a limit excludes it)"}`;
    const cells = [make("td", {}, name), make("td", {}, number(way.ms_per_token))];
    return make("tr", { "aria-current": way.chosen && "true" }, ...cells);
  }));
}

/** Draws all of it, at most once a frame. */
const draw = eachFrame(() => {
  news.draw(node, lost, linkSince);
  drawLink();
  const shown = shownText();
  const written = shown?.view.figures?.version;
  const plan = plans.find(({ version }) => version === written) ?? plans.find(({ under_way: is }) => is) ?? plans[0];
  drawTiles(shown?.view);
  timeline.draw();
  if (shown) drawTime(shown.view);
  drawPlan(plan);
});

export function start() {
  timeline.watch(() => {
    draw();
    if (lost !== null || (node && !node.link.up)) return "out";
    return [...texts.values()].some(({ view }) => view.state === "waiting") ? "wait" : "";
  });
}
