/** The fleet: workers, devices, versions of the family, and how the catalogue changed. */
import { byId, make, redraw, say } from "./dom.js";
import { happened } from "./news.js";

/** @type {Map<string, string> | null} states of workers by name, as they were */
let before = null;

/** @param {string} kind @returns {(member: any) => Node} how a member of `schemas/node.py` is shown */
const card = (kind) => ({ name, condition, mood, load, facts, state = "", status }) => {
  const meter = status?.capacity && make("meter", {
    min: 0, max: status.capacity, value: status.load ?? 0, "aria-label": `Load of ${name}`,
  });
  const top = make("div", { class: "top" }, make("strong", {}, name),
    make("span", { class: `tag ${mood}` }, condition), make("span", { class: "load" }, meter, load));
  return make("li", { class: "card", [`data-${kind}`]: name, "data-state": state || null }, top,
    make("p", {}, facts.join(" · ")));
};

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
  const blind = view.blind ? "This node's login may not read workers' statuses." : "No worker is there.";
  const workers = view.workers.map((/** @type {any} */ worker) => ({ ...worker, age_s: 0 }));
  list("workers", workers, card("worker"), blind);
  list("devices", view.devices, card("device"), "None that this node may read.");
  list("versions", view.versions, card("version"), "This node follows no family: it asks for one version only.");
  list("history", view.history, changeLine, "No catalogue was taken up yet.");
  say(byId("catalogue"), view.told.join(". "));
}

/** @param {string} id @param {any[]} data @param {(each: any) => Node} draw @param {string} empty */
function list(id, data, draw, empty) {
  redraw(byId(id), [data, empty], () => (data.length ? data.map(draw) : [make("li", { class: "none" }, empty)]));
}

/** @param {any} change of the catalogue */
const changeLine = ({ epoch, changes }) =>
  make("li", {}, make("time", {}, day(epoch)), make("span", {}, changes.join("; ") || "renewed, no change"));
