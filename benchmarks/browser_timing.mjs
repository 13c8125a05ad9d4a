// Times files in headless Chromium, and runs files on given inputs. Called by browser.py.
// Standard input: {folder, files, image, threads, repeats, forced}; standard output: what was measured.
import { readFileSync } from "node:fs";
import { open } from "../examples/browser/headless.mjs";
import { parse, stringify } from "../tests/examples/typed_json.mjs";

const { folder, files, image, threads, repeats, forced } = parse(readFileSync(0, "utf-8"));
const browser = await open(folder);
try {
  // Without its script the page loads no networks of its own.
  const page = await browser.visit({}, (page) => page.route("**/src/main.js", (route) => route.abort()));
  const typedJson = readFileSync(new URL("../tests/examples/typed_json.mjs", import.meta.url), "utf-8");
  await page.addScriptTag({ type: "module", content: `${typedJson}; globalThis.typedJson = { parse, stringify };` });
  await page.setInputFiles("#image", image);

  const times = {};
  for (const count of threads) {
    times[count] = await page.evaluate(
      async ([files, count, repeats]) => {
        const [{ decode }, { measure }, { Network }, { Runtime }] = await Promise.all(
          ["images", "measure", "network", "runtime"].map((name) => import(`/src/${name}.js`)),
        );
        const picture = await decode(document.getElementById("image").files[0]);
        const networks = [];
        for (const file of files) {
          networks.push(new Network(file, file, new Uint8Array(await (await fetch(`/out/${file}`)).arrayBuffer())));
        }
        const runtime = await Runtime.start(count);
        const found = await measure(runtime, networks, picture, repeats);
        runtime.stop();
        return found;
      },
      [files, count, repeats],
    );
  }

  const outputs = {};
  for (const [file, inputs] of Object.entries(forced)) {
    outputs[file] = parse(
      await page.evaluate(
        async ([file, inputs]) => {
          const runtime = await (await import("/src/runtime.js")).Runtime.start(1);
          await runtime.load(file, new Uint8Array(await (await fetch(`/out/${file}`)).arrayBuffer()));
          const { outputs } = await runtime.run(file, typedJson.parse(inputs));
          runtime.stop();
          return typedJson.stringify(outputs);
        },
        [file, stringify(inputs)],
      ),
    );
  }
  process.stdout.write(stringify({ chromium: browser.version, times, outputs }));
} finally {
  await browser.close();
}
