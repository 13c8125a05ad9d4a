// Serves this folder, and a folder that `qpass quantize` wrote as /out/: node serve.mjs [out [port]].
// Browsers give several threads only to pages with the two headers of cross-origin isolation.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const types = {
  ".html": "text/html",
  ".css": "text/css",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};

/** Returns a server that listens on this machine only. */
export function serve(out = resolve(here, "out"), port = 8000) {
  const server = createServer(async ({ url }, response) => {
    try {
      const path = decodeURIComponent(url.split("?")[0]);
      const root = resolve(path.startsWith("/out/") ? out : here);
      const name = path.startsWith("/out/") ? path.slice(5) : path.slice(1) || "index.html";
      const file = resolve(root, name);
      if (!file.startsWith(root + sep)) throw new Error("outside the folder");
      const body = await readFile(file);
      const type = types[extname(file)] ?? "application/octet-stream";
      response.writeHead(200, {
        "Content-Type": type,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cache-Control": "no-store",
      });
      response.end(body);
    } catch {
      response.writeHead(404).end("not found");
    }
  });
  return new Promise((done, fail) => server.once("error", fail).listen(port, "127.0.0.1", () => done(server)));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const server = await serve(process.argv[2], Number(process.argv[3] ?? 8000));
  console.log(`http://localhost:${server.address().port}`);
}
