// MQTT.js asks by MQTT 5 with Response Topic and Correlation Data, and by 3.1.1 with an id in JSON.
import { randomUUID } from "node:crypto";
import mqtt from "mqtt";
import { assert, run } from "./harness.mjs";

const { MQTT, EDGE } = process.env;
const movie = {
  type: "object",
  properties: { title: { type: "string", maxLength: 40 }, year: { type: "integer" } },
  required: ["title", "year"],
  additionalProperties: false,
};
const lamp = { name: "turn_on", parameters: { type: "object", properties: { room: { enum: ["kitchen", "hall"] } }, required: ["room"] } };

// The messages of an answer, the last one at the end.
async function ask(payload, protocolVersion = 5) {
  const client = await mqtt.connectAsync(`mqtt://${MQTT}`, { protocolVersion });
  const mark = randomUUID();
  const topic = `f1/answer/anybody/${EDGE}/${mark}`;
  const found = [];
  const done = new Promise((resolve, reject) => {
    client.on("message", (_topic, body, packet) => {
      const message = JSON.parse(body);
      const same = protocolVersion === 5 ? String(packet.properties?.correlationData) : message.id;
      if (same !== mark || message.error) reject(new Error(String(body)));
      found.push(message);
      if (message.done) resolve(found);
    });
  });
  await client.subscribeAsync(topic, { qos: 1 });
  if (protocolVersion === 5) {
    const properties = { responseTopic: topic, correlationData: Buffer.from(mark) };
    await client.publishAsync(`f1/ask/${EDGE}`, JSON.stringify(payload), { qos: 1, properties });
  } else {
    await client.publishAsync(`f1/ask/${EDGE}`, JSON.stringify({ ...payload, id: mark, response_topic: topic }), { qos: 1 });
  }
  return done.finally(() => client.end());
}

await run({
  chat: async () => [await ask({ prompt: "Why is the sky blue?", max_tokens: 40 }), await ask({ prompt: "Why is the sky blue?", max_tokens: 40 }, 4)],
  stream: async () => {
    const pieces = await ask({ prompt: "Why is the sky blue?", max_tokens: 40, stream: true });
    assert(pieces.length > 2, "no stream");
    return pieces.map(({ delta }) => delta ?? "").join("");
  },
  structured: async () => {
    const { title, year } = JSON.parse((await ask({ prompt: "Name a movie.", schema: movie })).at(-1).text);
    assert(typeof title === "string" && Number.isInteger(year), "not of the schema");
    return { title, year };
  },
  tools: async () => {
    const tools = [{ type: "function", function: lamp }];
    const [call] = (await ask({ prompt: "Light in the kitchen, please.", tools, tool_choice: "required" })).at(-1).tool_calls;
    assert(["kitchen", "hall"].includes(JSON.parse(call.function.arguments).room), "no such room");
    return call;
  },
});
