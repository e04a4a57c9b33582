// The AI SDK with ollama-ai-provider-v2, which asks by Ollama's API.
import { createOllama } from "ollama-ai-provider-v2";
import { examples } from "./ai_sdk.mjs";
import { model, url } from "./harness.mjs";

await examples(createOllama({ baseURL: `${url}/api` })(model));
