// The AI SDK with @ai-sdk/openai-compatible, which asks by chat completions.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { examples } from "./ai_sdk.mjs";
import { key, model, url } from "./harness.mjs";

await examples(createOpenAICompatible({ name: "node", baseURL: `${url}/v1`, apiKey: key, supportsStructuredOutputs: true })(model));
