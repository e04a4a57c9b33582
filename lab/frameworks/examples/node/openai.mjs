// OpenAI's client for JavaScript: tools run by its helper, structured outputs by zod, a stream, and Responses.
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { assert, key, model, run, url } from "./harness.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key });
const CalendarEvent = z.object({ name: z.string(), date: z.string(), participants: z.array(z.string()).max(4) });
const EVENT = [
  { role: "system", content: "Extract the event information." },
  { role: "user", content: "Alice and Bob are going to a science fair on Friday." },
];
const WEATHER = [{ role: "user", content: "What is the weather like in Paris today?" }];
const tool = () =>
  zodFunction({
    name: "get_weather",
    parameters: z.object({ location: z.string() }),
    function: ({ location }) => ({ location, temperature: 14 }),
  });

await run({
  chat: async () => (await client.responses.create({ model, instructions: "You are a coding assistant that talks like a pirate", input: "Are semicolons optional in JavaScript?" })).output_text,
  stream: async () => {
    const pieces = [];
    const messages = [{ role: "user", content: "Say this is a test" }];
    for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) pieces.push(chunk.choices[0]?.delta?.content);
    for await (const event of await client.responses.create({ model, input: "Say this is a test", stream: true })) pieces.push(event.type);
    return pieces;
  },
  tools: async () => {
    const asked = { model, messages: [...WEATHER], tools: [tool()] };
    const { message } = (await client.chat.completions.parse({ ...asked, tool_choice: "required" })).choices[0];
    const [call] = message.tool_calls;
    asked.messages.push(message, { role: "tool", tool_call_id: call.id, content: JSON.stringify(call.function.parsed_arguments) });
    return [call, (await client.chat.completions.create(asked)).choices[0].message];
  },
  stream_tools: async () => {
    const tool_choice = { type: "function", function: { name: "get_weather" } };
    const runner = client.chat.completions.runTools({ model, messages: WEATHER, tools: [tool()], tool_choice, stream: true });
    return [await runner.finalFunctionToolCall(), await runner.totalUsage()];
  },
  structured: async () => {
    const { message } = (await client.chat.completions.parse({ model, messages: EVENT, response_format: zodResponseFormat(CalendarEvent, "event") })).choices[0];
    const response = await client.responses.parse({ model, input: EVENT, text: { format: zodTextFormat(CalendarEvent, "event") } });
    assert(message.parsed.name !== undefined && response.output_parsed.name !== undefined, "nothing was parsed");
    return [message.parsed, response.output_parsed];
  },
});
