/** The page of an edge node: chat, live figures and the fleet, by the node's public API. */
import { follow, request } from "./api.js";
import * as chat from "./chat.js";
import * as fleet from "./fleet.js";
import * as live from "./live.js";
import * as outbox from "./outbox.js";

let listed = "";

/** Lists the models anew where the fleet has others than before. @param {any} view */
async function models(view) {
  const served = view.workers.map((/** @type {any} */ { status }) => [status.version, status.versions]);
  const key = JSON.stringify([view.versions, served]);
  if (key === listed) return;
  listed = key;
  const response = await request("v1/models").catch(() => null);
  if (response) chat.listModels((await response.json()).data);
  else listed = "";
}

chat.start();
live.start();
follow(
  (kind, view) => {
    if (kind === "fleet") {
      fleet.seen(view);
      models(view);
    } else live.seen(kind, view);
    if (kind === "node" || (kind === "text" && view.state !== "writing")) outbox.look();
  },
  live.unreachable,
);
