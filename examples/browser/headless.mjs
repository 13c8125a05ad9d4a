// Opens the page in headless Chromium, for tests, measurements and pictures. `node headless.mjs` prints which one.
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { serve } from "./serve.mjs";

/** Returns the path of Chromium: CHROMIUM, the one of npm's development packages, or one that is installed. */
async function findChromium() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  try {
    return await (await import("@sparticuz/chromium")).default.executablePath();
  } catch {
    for (const name of ["chromium", "chromium-browser", "google-chrome"]) {
      try {
        return execFileSync("which", [name], { encoding: "utf-8", stdio: ["ignore", "pipe", "ignore"] }).trim();
      } catch {}
    }
  }
  throw new Error("needs Chromium: set CHROMIUM, install chromium, or run npm ci with development packages");
}

/**
 * Serves the page with an output folder, and opens it.
 * @param {string} out the folder
 * @param {object} options of the browser's context, such as colorScheme and viewport
 */
export async function open(out, options = {}) {
  const { chromium } = await import("playwright-core");
  const server = await serve(out, 0);
  const args = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];
  const browser = await chromium.launch({ executablePath: await findChromium(), args });
  const address = `http://localhost:${server.address().port}/`;
  const visit = async (changes = {}, before = async () => {}) => {
    const page = await (await browser.newContext({ ...options, ...changes })).newPage();
    page.setDefaultTimeout(120_000); // machines of tests are busy
    await before(page);
    await page.goto(address);
    return page;
  };
  const close = async () => {
    await browser.close();
    server.close();
  };
  return { visit, close, version: browser.version() };
}

/** Waits until the page has an answer; fails with the error that it shows instead. */
export async function answered(page) {
  await page.waitForFunction(() => {
    const [error, status] = ["error", "status"].map((id) => document.getElementById(id));
    return !error.hidden || status.textContent.includes(" ms");
  });
  const error = await page.textContent("#error");
  if (error) throw new Error(error);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    console.log(await findChromium());
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
