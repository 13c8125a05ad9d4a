// Tries the page in headless Chromium. Standard input: {out, images, refused, runs}; standard output: what was seen.
import { readFileSync } from "node:fs";
import { answered, open } from "../../../examples/browser/headless.mjs";
import { parse, stringify } from "../typed_json.mjs";

const { out, images, refused, runs } = parse(readFileSync(0, "utf-8"));
const browser = await open(out, { viewport: { width: 360, height: 800 } });
const cells = (page, rows) =>
  page.locator(rows).evaluateAll((found) => found.map((row) => [...row.children].map((cell) => cell.textContent)));

/** The page as a person uses it: files beside it, an image, the comparison, the camera, one thread, a drop. */
async function use(page) {
  await page.setInputFiles("#image", images[0]);
  await answered(page);
  const seen = { classes: await cells(page, "#classes li"), status: await page.textContent("#status") };
  await page.click("#measure");
  await page.waitForSelector("#table:not([hidden])");
  seen.table = await cells(page, "#table tbody tr");
  seen.width = await page.evaluate(() => document.documentElement.scrollWidth);
  seen.threads = await page.locator("#threads option").count();
  await page.click("#camera");
  await page.waitForFunction(() => document.getElementById("video").videoWidth > 0);
  await page.click("#shoot");
  await page.waitForFunction((before) => ![before, ""].includes(document.getElementById("status").textContent), seen.status);
  await answered(page);
  seen.ofCamera = await cells(page, "#classes li");
  await page.selectOption("#threads", "1");
  const dropped = await page.evaluateHandle(() => {
    const transfer = new DataTransfer();
    transfer.items.add(document.getElementById("image").files[0]);
    return transfer;
  });
  await page.dispatchEvent("#drop", "drop", { dataTransfer: dropped });
  const best = "#classes li:first-child span + span";
  await page.waitForFunction(([best, share]) => document.querySelector(best).textContent === share, [best, seen.classes[0][1]]);
  seen.ofDrop = await cells(page, "#classes li");
  return seen;
}

/** Pixels of images as the page decodes them. */
async function decode(page) {
  const found = [];
  for (const image of images) {
    await page.setInputFiles("#image", image);
    found.push(parse(await page.evaluate(async () => {
      const { decode } = await import("/src/images.js");
      return typedJson.stringify(await decode(document.getElementById("image").files[0]));
    })));
  }
  return found;
}

/** Outputs of files for named inputs. */
async function run(page, threads) {
  const text = await page.evaluate(
    async ([runs, threads]) => {
      const { Runtime } = await import("/src/runtime.js");
      const runtime = await Runtime.start(threads), found = {};
      for (const [file, inputs] of Object.entries(typedJson.parse(runs))) {
        await runtime.load(file, new Uint8Array(await (await fetch(`/out/${file}`)).arrayBuffer()));
        found[file] = (await runtime.run(file, inputs)).outputs;
      }
      runtime.stop();
      return typedJson.stringify(found);
    },
    [stringify(runs), threads],
  );
  return parse(text);
}

/** What the page says where something is missing or wrong. */
async function refuse(page) {
  const errors = {};
  const error = async (page, start) => {
    await page.waitForFunction((start) => document.getElementById("error").textContent.startsWith(start), start);
    return page.textContent("#error");
  };
  for (const file of refused) {
    const name = file.split("/").at(-1);
    await page.setInputFiles(name.endsWith(".onnx") ? "#quantized" : "#image", file);
    errors[name] = await error(page, name);
  }
  errors.vendor = await error(await browser.visit({}, (page) => page.route("**/vendor/**", (route) => route.abort())), "o");
  errors.wasm = await error(await browser.visit({}, (page) => page.addInitScript(() => delete globalThis.WebAssembly)), "t");
  const bare = await browser.visit({}, (page) => page.route("**/out/**", (route) => route.fulfill({ status: 404 })));
  await bare.waitForFunction(() => document.getElementById("status").textContent.startsWith("Choose"));
  errors.nothing = await bare.textContent("#status");
  return errors;
}

try {
  const page = await browser.visit();
  const typedJson = readFileSync(new URL("../typed_json.mjs", import.meta.url), "utf-8");
  await page.addScriptTag({ type: "module", content: `${typedJson}; globalThis.typedJson = { parse, stringify };` });
  const seen = { page: await use(page), decoded: await decode(page), outputs: [await run(page, 1), await run(page, 2)] };
  process.stdout.write(stringify({ ...seen, errors: await refuse(page) }));
} finally {
  await browser.close();
}
