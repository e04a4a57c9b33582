/** The fleet: workers, devices, versions of the family, and how the catalogue changed. */
import { byId, clock, make, many, number, redraw, seconds, span } from "./dom.js";
import { happened } from "./news.js";

/** Seconds after which a worker's silence is told. */
const SILENT = 60;
/** @type {Map<string, string> | null} states of workers by name, as they were */
let before = null;

/** @param {string} text @param {string} [kind] good, bad or news */
const tag = (text, kind = "") => make("span", { class: `tag ${kind}` }, text);

/** @param {Record<string, string>} hooks @param {any[]} top @param {...(string | false)} lines */
const card = (hooks, top, ...lines) =>
  make("li", { class: "card", ...hooks }, make("div", { class: "top" }, ...top),
    ...lines.filter(Boolean).map((line) => make("p", {}, line)));

/** @param {any} worker of `schemas/node.py` */
function workerCard({ age_s: age, status }) {
  const { worker, state, load = 0, capacity = 0, exactness = "unknown" } = status;
  const meter = make("meter", { min: 0, max: Math.max(capacity, 1), value: load, "aria-label": `Load of ${worker}` });
  const top = [
    make("strong", {}, worker), tag(state, state === "online" ? "good" : "bad"),
    make("span", { class: "load" }, meter, `${load} of ${capacity} texts`),
  ];
  const versions = status.versions ?? [{ name: status.version }];
  const held = versions.map((/** @type {any} */ { name, state: how = "ready", exactness: exact, why }) =>
    [name, how !== "ready" && how, exact, why].filter(Boolean).join(" "));
  const flips = status.flip_rate ? `, ${number(100 * status.flip_rate, 3)} % of tokens differ` : "";
  const forward = status.forward_ms && `forward ${span(status.forward_ms)}`;
  const runs = [status.device, status.dtype, forward, status.draft && "a draft of its own"];
  const told = [`${exactness}${flips}`, ...runs].filter(Boolean).join(" · ");
  const lines = [`Serves ${held.join(", ") || "nothing"}`, told];
  return card({ "data-worker": worker }, top, ...lines, age > SILENT && `silent for ${seconds(age)}`);
}

/** @param {any} status a device's */
function deviceCard({ edge, state, draft, sessions = 0, waiting = 0, outage, versions = [] }) {
  const figures = versions.map((/** @type {any} */ own) => {
    const right = own.drafted ? `, ${number((100 * own.accepted) / own.drafted, 0)} % of drafts right` : "";
    const errors = own.errors ? `, ${many(own.errors, "error")}` : "";
    return `${own.name}: ${many(own.answers ?? 0, "answer")}${errors}${right}`;
  });
  const now = make("span", { class: "load" }, `${many(sessions, "text")} now`);
  const top = [make("strong", {}, edge), tag(state, state === "online" ? "good" : "bad"), now];
  const waits = waiting > 0 && `${many(waiting, "text")} waiting`;
  const away = outage && `Away for ${seconds(outage.seconds)} until ${clock(outage.ended)}`;
  return card({ "data-device": edge }, top, draft && draft !== "none" && `Draft ${draft}`, waits, away, ...figures);
}

/** @param {any} version of the family */
function versionCard({ name, state, share, workers, digest }) {
  const kind = { stable: "good", canary: "news" }[/** @type {string} */ (state)] ?? "";
  const top = [make("strong", {}, name), tag(state === "canary" ? `canary, ${share} % of new texts` : state, kind),
    make("span", { class: "load" }, many(workers, "worker"))];
  return card({ "data-version": name, "data-state": state }, top, `Digest ${digest.slice(0, 16)}`);
}

/** @param {any[]} workers */
function tellChanges(workers) {
  const now = new Map(workers.map(({ status }) => [status.worker, status.state]));
  for (const [name, state] of now) {
    const was = before?.get(name);
    if (before && was !== state) happened(`Worker ${name} is ${was === undefined ? "here" : `${state} now`}`);
  }
  for (const name of before?.keys() ?? []) if (!now.has(name)) happened(`Worker ${name} is gone`);
  before = now;
}

/** @param {any} catalogue */
function catalogueLine({ family, state, epoch, expires, refused, alarm }) {
  const until = expires ? `, valid until ${day(expires)}` : "";
  const odd = `${refused ? `; ${many(refused, "message")} refused` : ""}${alarm ? `; ALARM: ${alarm}` : ""}`;
  const is = state === "none" ? "no catalogue yet" : `catalogue of ${day(epoch)} is ${state}`;
  return `Family ${family}: ${is}${until}${odd}`;
}

/** @param {number} epoch */
const day = (epoch) => new Date(epoch * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** @type {string[] | null} */
let told = null;

/** @param {any} view the newest fleet */
export function seen(view) {
  tellChanges(view.workers);
  const changes = view.history.map((/** @type {any} */ change) => `${change.epoch} ${change.changes.join(", ")}`);
  if (told !== null && changes[0] && changes[0] !== told[0] && view.history[0].changes.length) {
    happened(`Catalogue: ${view.history[0].changes.join(", ")}`);
  }
  told = changes;
  const workers = view.workers.map((/** @type {any} */ { age_s: age, status }) =>
    ({ age_s: age > SILENT ? Math.round(age / 10) * 10 : 0, status }));
  const blind = view.blind ? "This node's login may not read workers' statuses." : "No worker is there.";
  list("workers", workers, workerCard, blind);
  list("devices", view.devices, deviceCard, "None that this node may read.");
  list("versions", view.versions, versionCard, "This node follows no family: it asks for one version only.");
  list("history", view.history, changeLine, "No catalogue was taken up yet.");
  redraw(byId("catalogue"), view.catalogue, () => (view.catalogue ? [catalogueLine(view.catalogue)] : []));
}

/** @param {string} id @param {any[]} data @param {(each: any) => Node} draw @param {string} empty */
function list(id, data, draw, empty) {
  redraw(byId(id), [data, empty], () => (data.length ? data.map(draw) : [make("li", { class: "none" }, empty)]));
}

/** @param {any} change of the catalogue */
const changeLine = ({ epoch, changes }) =>
  make("li", {}, make("time", {}, day(epoch)), make("span", {}, changes.join("; ") || "renewed, no change"));
