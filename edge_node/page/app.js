/** The page of an edge node: chat, live figures and the fleet, by the node's public API. */
import { follow, request } from "./api.js";
import * as chat from "./chat.js";
import * as fleet from "./fleet.js";
import * as live from "./live.js";
import * as outbox from "./outbox.js";

let listed = "";
/** Name of the model that a question without one means. */
let own = "";

/** Lists the models anew where the fleet has others than before. @param {any} view */
async function models(view) {
  const statuses = view.workers.map((/** @type {any} */ { status }) => status);
  const served = statuses.map((/** @type {any} */ { version, versions, target }) => [version, versions, target]);
  const key = JSON.stringify([view.versions, served, own]);
  if (key === listed) return;
  listed = key;
  const response = await request("v1/models").catch(() => null);
  if (response) chat.listModels((await response.json()).data, own, statuses);
  else listed = "";
}

chat.start();
live.start();
follow(
  (kind, view) => {
    if (kind === "node") own = view.model;
    if (kind === "fleet") {
      fleet.seen(view);
      models(view);
    } else live.seen(kind, view);
    if (kind === "node" || (kind === "text" && view.state !== "writing")) outbox.look();
  },
  live.unreachable,
);
