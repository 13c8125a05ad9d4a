// Copies the parts of onnxruntime-web that the page loads into vendor/, so that nothing comes from elsewhere.
import { cp, mkdir } from "node:fs/promises";

const from = new URL("node_modules/onnxruntime-web/dist/", import.meta.url);
const to = new URL("vendor/", import.meta.url);
await mkdir(to, { recursive: true });
for (const name of ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"]) {
  await cp(new URL(name, from), new URL(name, to));
}
