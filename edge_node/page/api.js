/** Requests to the node that the page came from, under its key if it asks for one. No other origin is ever asked. */
import { byId } from "./dom.js";

const KEPT = "flexspec.key";
const BACK_OFF = [0.5, 1, 2, 4, 8];
/** @param {number} tries so far @returns {Promise<void>} when it is time for another */
export const backOff = (tries) =>
  new Promise((resolve) => setTimeout(resolve, BACK_OFF[Math.min(tries, BACK_OFF.length - 1)] * 1000));
const SILENCE = 45_000;
const NO_KEY = "The node asks for a key, and none was given. Your next question asks for it again.";

const AWAY = "The edge node does not answer: was it stopped? Trying again …";

/** An error in the API's own words, which have its hint. */
export class ApiError extends Error {
  /** @param {string} message @param {string} code */
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

/** @type {Promise<void> | null} */
let asking = null;

/**
 * Asks for the key, once for all requests that lack it. Nothing else of the page changes meanwhile.
 * @param {string | null} refused the key that was not taken
 * @returns {Promise<void>} when there is another one
 */
function askKey(refused) {
  if (sessionStorage.getItem(KEPT) !== refused) return Promise.resolve();
  asking ??= new Promise((resolve, reject) => {
    const [dialog, form, input, error] = ["key-dialog", "key-form", "key-input", "key-error"].map(byId);
    const before = document.activeElement;
    const over = new AbortController();
    const end = (/** @type {() => void} */ how) => {
      asking = null;
      over.abort();
      dialog.close();
      input.value = "";
      if (before instanceof HTMLElement) before.focus();
      how();
    };
    const cancel = (/** @type {Event} */ event) => {
      event.preventDefault();
      end(() => reject(new ApiError(NO_KEY, "invalid_api_key")));
    };
    const wrong = "The key is wrong, or no longer the node's. Nothing that you typed is lost.";
    error.textContent = refused === null ? "" : wrong;
    form.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      sessionStorage.setItem(KEPT, input.value.trim());
      end(resolve);
      dispatchEvent(new Event("key"));
    }, { signal: over.signal });
    dialog.addEventListener("cancel", cancel, { signal: over.signal });
    byId("key-cancel").addEventListener("click", cancel, { signal: over.signal });
    dialog.showModal();
    input.focus();
  });
  return asking;
}

/**
 * Asks the node. A key is asked for where it wants one, and the request made again.
 * @param {string} path relative to the page
 * @param {{body?: object | null, headers?: Record<string, string>, method?: string, signal?: AbortSignal}} [how]
 * @returns {Promise<Response>}
 * @throws {ApiError} the node refused, or does not answer
 */
export async function request(path, { body, headers: more, method, signal } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEPT);
    /** @type {Record<string, string>} */
    const headers = key === null ? { ...more } : { ...more, authorization: `Bearer ${key}` };
    if (body) headers["content-type"] = "application/json";
    const json = body ? JSON.stringify(body) : undefined;
    const how = { method: method ?? (body ? "POST" : "GET"), headers, body: json, signal };
    const response = await fetch(path, { ...how, cache: "no-store", redirect: "error" }).catch((error) => {
      if (signal?.aborted) throw error;
      throw new ApiError("The edge node does not answer. Is flexspec-edge serve running?", "unreachable");
    });
    if (response.status !== 401) {
      if (response.ok) return response;
      const said = (await response.json().catch(() => null))?.error;
      throw new ApiError(said?.message ?? `The node answered with status ${response.status}.`, said?.code ?? "");
    }
    await response.body?.cancel();
    await askKey(key);
  }
}

/**
 * Reads server-sent events.
 * @param {Response} response
 * @returns {AsyncGenerator<{event: string, data: string, comment: string, id: string}>} events and comments, as they
 *   come, and the id of the last event that had one
 */
export async function* serverSent(response) {
  const reader = /** @type {ReadableStream<any>} */ (response.body).pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = "message";
  let id = "";
  /** @type {string[]} */
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        const [, name, text] = /^([^:]*):? ?(.*?)\r?$/.exec(line) ?? ["", "", ""];
        if (name === "event") event = text;
        else if (name === "data") data.push(text);
        else if (name === "id") id = text;
        else if (line.startsWith(":")) yield { event: "", data: "", comment: text, id };
        else if (name === "" || name === "\r") {
          if (data.length) yield { event, data: data.join("\n"), comment: "", id };
          [event, data] = ["message", []];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Follows the node's events for as long as the page is open; connects again, later each time, where it has to.
 * @param {(kind: string, view: any) => void} seen
 * @param {(why: string | null) => void} lost told why there is no stream, and null once there is one again
 */
export async function follow(seen, lost) {
  for (let tries = 0; ; tries += 1) {
    const stop = new AbortController();
    let watch = 0;
    const alive = () => {
      clearTimeout(watch);
      watch = setTimeout(() => stop.abort(), SILENCE);
    };
    try {
      alive();
      const response = await request("v1/events", { signal: stop.signal });
      for await (const { event, data } of serverSent(response)) {
        alive();
        if (tries >= 0) lost(null);
        tries = -1;
        if (data) seen(event, JSON.parse(data));
      }
      lost(AWAY);
    } catch (error) {
      clearTimeout(watch);
      const refused = error instanceof ApiError && error.code !== "unreachable";
      lost(refused ? error.message : AWAY);
      // Who did not want to give the key is not asked again before they do something that needs it.
      if (refused && error.code === "invalid_api_key") {
        await new Promise((resolve) => addEventListener("key", resolve, { once: true }));
        continue;
      }
    }
    clearTimeout(watch);
    await backOff(Math.max(tries, 0));
  }
}
