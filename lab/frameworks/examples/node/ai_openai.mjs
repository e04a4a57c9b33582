// The AI SDK with @ai-sdk/openai, which asks by Responses.
import { createOpenAI } from "@ai-sdk/openai";
import { examples } from "./ai_sdk.mjs";
import { key, model, url } from "./harness.mjs";

await examples(createOpenAI({ baseURL: `${url}/v1`, apiKey: key })(model));
