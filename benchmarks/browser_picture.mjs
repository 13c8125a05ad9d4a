// Takes pictures of examples/browser: node benchmarks/browser_picture.mjs OUT IMAGE LIGHT.png DARK.png [NARROW.png]
// OUT is a folder that qpass quantize wrote.
import { answered, open } from "../examples/browser/headless.mjs";

const [out, image, light, dark, narrow] = process.argv.slice(2);
const browser = await open(out);
const pictures = [[light, "light", 760], [dark, "dark", 760], [narrow, "light", 360]];
for (const [path, colorScheme, width] of pictures.filter(([path]) => path)) {
  const page = await browser.visit({ colorScheme, viewport: { width, height: 800 } });
  await page.setInputFiles("#image", image);
  await answered(page);
  await page.click("#measure");
  await page.waitForSelector("#table:not([hidden])");
  await page.screenshot({ path, fullPage: true });
}
await browser.close();
