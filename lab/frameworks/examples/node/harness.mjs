// Runs the features of an example as the runner names them, a JSON line each, and says what became of each.
import { createInterface } from "node:readline";

export const { URL: url, KEY: key, MODEL: model } = process.env;

export async function run(features) {
  const tell = (told) => process.stdout.write(JSON.stringify(told) + "\n");
  console.log = console.error; // frameworks print
  tell({ features: Object.keys(features) });
  for await (const line of createInterface({ input: process.stdin })) {
    const { feature } = JSON.parse(line);
    try {
      tell({ feature, answer: (JSON.stringify(await features[feature]()) ?? "").slice(0, 300) });
    } catch (error) {
      console.error(error);
      tell({ feature, error: `${error.name}: ${error.message}`.slice(0, 600) });
    }
  }
  process.exit(0);
}

export function assert(held, what) {
  if (!held) throw new Error(what);
}
