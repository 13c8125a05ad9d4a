// Pixels of image files and of the camera. Colour profiles are not applied, as in calibration.
import { withoutExif } from "./orientation.js";

/** Returns {width, height, data} of an image file, four bytes a pixel. */
export async function decode(file) {
  try {
    const plain = new Blob([withoutExif(new Uint8Array(await file.arrayBuffer()))], { type: file.type });
    return pixels(await createImageBitmap(plain, { colorSpaceConversion: "none" }));
  } catch {
    throw new Error(`${file.name}: is no image that this browser can read`);
  }
}

/** Returns {width, height, data} of anything that can be drawn. */
export function pixels(source) {
  const width = source.videoWidth || source.width, height = source.videoHeight || source.height;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  return { width, height, data };
}

/** Draws the pixels that the network sees, which have one or three channels. */
export function show({ width, height, channels, data }, canvas) {
  const shown = new ImageData(width, height);
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let i = 0; i < 3; i++) shown.data[pixel * 4 + i] = data[pixel * channels + (i % channels)];
    shown.data[pixel * 4 + 3] = 255;
  }
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(shown, 0, 0);
}
