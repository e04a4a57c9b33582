/** Live figures: the link, the newest text, where its time goes, and the plan. */
import { ownText } from "./chat.js";
import { byId, clock, eachFrame, make, many, number, redraw, say, seconds, span, times } from "./dom.js";
import * as news from "./news.js";
import * as timeline from "./timeline.js";
import { choiceSentence, parts, planSentence, why } from "./why.js";

const TEXTS = 8;

/** @type {any} */
let node = null;
/** @type {any[]} */
let plans = [];
/**
 * A text's newest view, when that came, when its state began, milliseconds for which it waited before its first token
 * and after it, and for whom it waited last.
 * @typedef {{view: any, at: number, since: number, waited: number[], whom: string}} Text
 */
/** @type {Map<string, Text>} newest texts by id */
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
    const last = texts.get(view.id);
    const same = last && last.view.state === view.state && last.view.why === view.why;
    if (view.figures) timeline.count(view.figures, last && { at: last.at, figures: last.view.figures }, connected);
    const now = Date.now();
    const { waited, whom } = last ?? { waited: [0, 0], whom: "" };
    const text = { view, at: now, since: same ? last.since : now, waited, whom };
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
  const rounds = figures?.rounds ?? 0;
  tile("tokens-per-round", rounds ? number(figures.tokens / rounds) : "–", rounds ? `in ${many(rounds, "round")}` : "");
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
  const alone = plan.estimates.provisional?.value;
  const lately = alone == null ? "" : `Lately ${number(100 * alone, 0)} % of what the draft wrote alone was confirmed.`;
  say(byId("plan"), [planSentence(plan.plan), choiceSentence(plan.alternatives), lately].filter(Boolean).join(" "));
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
  news.draw(node, lost, linkSince);
  drawLink();
  const shown = shownText();
  const written = shown?.view.figures?.version;
  const plan = plans.find(({ version }) => version === written) ?? plans.find(({ under_way: is }) => is) ?? plans[0];
  drawTiles(shown?.view.figures);
  timeline.draw();
  if (shown) drawWhy(shown, plan);
  drawPlan(plan);
});

export function start() {
  timeline.watch(() => {
    draw();
    if (lost !== null || (node && !node.link.up)) return "out";
    return [...texts.values()].some(({ view }) => view.state === "waiting") ? "wait" : "";
  });
}
