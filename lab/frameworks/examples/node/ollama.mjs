// Ollama's client for JavaScript: chat, stream, tools and structured output, as its README and examples have them.
import { Ollama } from "ollama";
import { z } from "zod";
import { key, model, run, url } from "./harness.mjs";

const ollama = new Ollama({ host: url, headers: { Authorization: `Bearer ${key}` } });
const Country = z.object({ name: z.string(), capital: z.string(), languages: z.array(z.string()).max(4) });
const subtract = {
  type: "function",
  function: {
    name: "subtractTwoNumbers",
    description: "Subtract two numbers",
    parameters: {
      type: "object",
      required: ["a", "b"],
      properties: { a: { type: "number", description: "The first number" }, b: { type: "number", description: "The second number" } },
    },
  },
};
const sky = [{ role: "user", content: "Why is the sky blue?" }];

await run({
  chat: async () => [await ollama.list(), await ollama.show({ model }), (await ollama.chat({ model, messages: sky })).message.content],
  stream: async () => {
    const pieces = [];
    for await (const part of await ollama.chat({ model, messages: sky, stream: true })) pieces.push(part.message.content);
    return pieces;
  },
  tools: async () => {
    const messages = [{ role: "user", content: "What is three minus one?" }];
    const { message } = await ollama.chat({ model, messages, tools: [subtract] });
    messages.push(message);
    for (const { function: call } of message.tool_calls ?? []) messages.push({ role: "tool", tool_name: call.name, content: String(call.arguments.a - call.arguments.b) });
    return [message, (await ollama.chat({ model, messages })).message];
  },
  structured: async () => {
    const { message } = await ollama.chat({ model, messages: [{ role: "user", content: "Tell me about Canada." }], format: z.toJSONSchema(Country) });
    return Country.parse(JSON.parse(message.content));
  },
});
