// The AI SDK's examples with generateText, streamText, tools, Output.object and an agent, for any of its providers.
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { assert, run } from "./harness.mjs";

const weather = tool({
  description: "Get the weather in a location",
  inputSchema: z.object({ location: z.string().describe("The location to get the weather for") }),
  execute: async ({ location }) => ({ location, temperature: 72 + Math.floor(Math.random() * 21) - 10 }),
});
const prompt = "What is the weather in San Francisco?";
const recipe = z.object({
  recipe: z.object({
    name: z.string(),
    ingredients: z.array(z.object({ name: z.string(), amount: z.string() })).max(4),
    steps: z.array(z.string()).max(4),
  }),
});

export const examples = (model) =>
  run({
    chat: async () => (await generateText({ model, prompt: "Write a vegetarian lasagna recipe for 4 people." })).text,
    stream: async () => {
      const pieces = [];
      for await (const piece of streamText({ model, prompt: "Invent a new holiday and describe its traditions." }).textStream) pieces.push(piece);
      assert(pieces.length > 1, "no stream");
      return pieces;
    },
    tools: async () => {
      const prepareStep = ({ stepNumber }) => ({ toolChoice: stepNumber ? "auto" : "required" });
      const { steps } = await generateText({ model, tools: { weather }, stopWhen: stepCountIs(2), prepareStep, prompt });
      assert(steps[0].toolResults.length, "no tool was called");
      return steps.map(({ content }) => content);
    },
    stream_tools: async () => {
      const { toolCalls, toolResults } = streamText({ model, tools: { weather }, toolChoice: "required", prompt });
      assert((await toolResults).length, "no tool was called");
      return toolCalls;
    },
    structured: async () => (await generateText({ model, output: Output.object({ schema: recipe }), prompt: "Generate a lasagna recipe." })).output,
    stream_structured: async () => {
      const { output, partialOutputStream } = streamText({ model, output: Output.object({ schema: recipe }), prompt: "Generate a lasagna recipe." });
      for await (const part of partialOutputStream) assert(typeof part === "object", "no part of an object");
      return output;
    },
  });
