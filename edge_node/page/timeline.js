/** The last minute: tokens by who wrote them, in half seconds, and when nothing could be written. */
import { byId, many, number, say, seconds } from "./dom.js";

const BIN = 500;
const BINS = 120;
/** Tokens that come together are shown over this many milliseconds at most. */
const SPREAD = 5000;
const WRITERS = ["target", "worker", "device", "lookup", "grammar"];

/** @typedef {{at: number, held: "" | "out" | "wait", counts: Record<string, number>}} Bin */
/** @type {Bin[]} a ring of half seconds */
const bins = [];

/** @param {number} [time] in milliseconds @returns {Bin} */
function bin(time = Date.now()) {
  const at = Math.floor(time / BIN);
  if (bins[at % BINS]?.at !== at) bins[at % BINS] = { at, held: "", counts: {} };
  return bins[at % BINS];
}

/**
 * Counts what a text has got since its last view, or since its first token where this page saw it begin.
 * @param {any} view
 * @param {{at: number, view: any} | undefined} last view, and when it came
 * @param {number} connected when the stream of events began
 */
export function count({ figures, written: after }, last, connected) {
  const now = Date.now();
  const began = now - (figures.seconds - (figures.first_token ?? 0)) * 1000;
  if (!last && began < connected) return;
  const before = last?.view.written ?? {};
  const steps = Math.floor(now / BIN) - Math.floor(Math.max(last?.at ?? began, now - SPREAD) / BIN) + 1;
  for (let step = 0; step < steps; step += 1) {
    const { counts } = bin(now - step * BIN);
    for (const writer of WRITERS) {
      counts[writer] = (counts[writer] ?? 0) + Math.max(after[writer] - (before[writer] ?? 0), 0) / steps;
    }
  }
}

/** Notes twice a second whether the link is down, or a text waits. @param {() => "" | "out" | "wait"} held */
export function watch(held) {
  setInterval(() => (bin().held ||= held()), BIN);
}

/** Draws it, and says in words what it shows. */
export function draw() {
  const first = Math.floor(Date.now() / BIN) - BINS + 1;
  const shown = bins.filter(({ at }) => at >= first);
  const sums = shown.map(({ counts }) => WRITERS.reduce((sum, writer) => sum + (counts[writer] ?? 0), 0));
  const most = Math.max(...sums, 4);
  /** @type {Record<string, string>} */
  const paths = Object.fromEntries(["out", "wait", ...WRITERS].map((name) => [name, ""]));
  for (const { at, held, counts } of shown) {
    const x = (at - first) * 3;
    if (held) paths[held] += `M${x} 0h3v72h-3z`;
    let y = 72;
    for (const writer of WRITERS) {
      const high = ((counts[writer] ?? 0) / most) * 66;
      if (high) paths[writer] += `M${x} ${(y -= high).toFixed(1)}h2.4v${high.toFixed(1)}h-2.4z`;
    }
  }
  const svg = byId("timeline");
  for (const path of svg.children) path.setAttribute("d", paths[path.dataset.writer]);
  const total = sums.reduce((sum, each) => sum + each, 0);
  say(byId("peak"), total ? `up to ${number(Math.max(...sums) * (1000 / BIN), 0)} tokens/s` : "");
  const away = shown.filter(({ held }) => held === "out").length * (BIN / 1000);
  const label = `${many(total, "token")} in the last minute${away ? `, and an outage of ${seconds(away)}` : ""}`;
  if (svg.getAttribute("aria-label") !== label) svg.setAttribute("aria-label", label);
}
