// Resizes images of 8 bits as pillow does, to the bit. A canvas does not: it averages fewer pixels when it shrinks an
// image, and the network would see other images than those it was calibrated with.

const round = Math.fround;
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

/** pillow's filters: half width, and weight at a distance in pixels of the coarser grid. */
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (x === 0 ? 1 : Math.abs(x) >= 1 ? 0 : sinc(x) * (round(0.54) + round(0.46) * Math.cos(Math.PI * x)))],
  bicubic: [2, (x) => bicubic(Math.abs(x))],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function bicubic(x) {
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/**
 * Returns an image of another size.
 * @param {{width: number, height: number, channels: number, data: Uint8Array}} image channels side by side in each pixel
 * @param {string} interpolation pillow's name of the filter, in lower case
 */
export function resize(image, width, height, interpolation) {
  if (width === image.width && height === image.height) return image;
  if (interpolation === "nearest") return nearest(image, width, height);
  if (!(interpolation in FILTERS)) throw new Error(`no filter is called ${interpolation}`);
  const passes = [
    (each) => alongRows(each, width, interpolation),
    (each) => transpose(alongRows(transpose(each), height, interpolation)),
  ];
  // Each pass rounds to 8 bits, so their order shows. pillow takes the width first; since version 13, it takes the height
  // first where that loses more than twice as many pixels.
  if (image.height - height > Math.max(0, 2 * (image.width - width))) passes.reverse();
  return passes.reduce((each, pass) => pass(each), image);
}

/** Resizes to a width. Weights have 22 bits after the point. */
function alongRows({ width: before, height, channels, data }, width, interpolation) {
  if (width === before) return { width, height, channels, data };
  const columns = Array.from({ length: width }, (_, x) => weightsOf(x, before, width, interpolation));
  const resized = new Uint8ClampedArray(width * height * channels);
  for (let y = 0, to = 0; y < height; y++) {
    for (const { first, weights } of columns) {
      const from = (y * before + first) * channels;
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << 21;
        for (let i = 0, at = from + channel; i < weights.length; i++, at += channels) sum += data[at] * weights[i];
        resized[to++] = sum >> 22;
      }
    }
  }
  return { width, height, channels, data: resized };
}

/** Returns the first pixel that a pixel of the resized row is made of, and the weights from there on. */
function weightsOf(x, before, after, interpolation) {
  const [halfWidth, filter] = FILTERS[interpolation];
  const scale = before / after, stretch = Math.max(scale, 1), center = (x + 0.5) * scale;
  const first = Math.max(0, Math.trunc(center - halfWidth * stretch + 0.5));
  const end = Math.min(before, Math.trunc(center + halfWidth * stretch + 0.5));
  const weights = Array.from({ length: end - first }, (_, i) => filter((i + first - center + 0.5) * (1 / stretch)));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const fixed = (weight) => Math.trunc(weight * 2 ** 22 + (weight < 0 ? -0.5 : 0.5));
  return { first, weights: Int32Array.from(weights, (weight) => fixed(total === 0 ? weight : weight / total)) };
}

function transpose({ width, height, channels, data }) {
  const turned = new Uint8Array(data.length);
  for (let y = 0, from = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let channel = 0; channel < channels; channel++) turned[(x * height + y) * channels + channel] = data[from++];
    }
  }
  return { width: height, height: width, channels, data: turned };
}

function nearest({ width: before, height: rows, channels, data }, width, height) {
  const xs = places(before, width), ys = places(rows, height);
  const picked = new Uint8Array(width * height * channels);
  let to = 0;
  for (const y of ys) {
    for (const x of xs) {
      for (let channel = 0; channel < channels; channel++) picked[to++] = data[(y * before + x) * channels + channel];
    }
  }
  return { width, height, channels, data: picked };
}

/** Returns the pixel nearest to each. pillow adds the step up, and so do its rounding errors. */
function places(before, after) {
  const step = before / after, found = [];
  for (let i = 0, at = step * 0.5; i < after; i++, at += step) found.push(Math.min(before - 1, Math.trunc(at)));
  return found;
}
