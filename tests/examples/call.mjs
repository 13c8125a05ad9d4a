// Calls functions of the examples. Standard input: [[module, function, arguments], …]; standard output: the results.
import { readFileSync } from "node:fs";
import { parse, stringify } from "./typed_json.mjs";

const results = [];
for (const [module, name, given] of parse(readFileSync(0, "utf-8"))) {
  const functions = await import(new URL(`../../examples/${module}`, import.meta.url));
  try {
    results.push({ result: await functions[name](...given) });
  } catch (error) {
    results.push({ error: error.message });
  }
}
process.stdout.write(stringify(results));
