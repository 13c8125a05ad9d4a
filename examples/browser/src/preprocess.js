// Turns an image into a network's input, as qpass/data/preprocess.py does, to the bit.
import { resize } from "./resample.js";

/**
 * Returns an image as the network's input, and the pixels that it sees.
 * @param {{width: number, height: number, data: Uint8Array}} image red, green, blue and alpha of each pixel
 * @param {object} how the preprocessing, as in preprocessing.json
 * @returns {{input: {type: string, dims: number[], data: Float32Array}, seen: object}}
 */
export function preprocess(image, how) {
  let seen = how.channels === "L" ? toGrey(image) : toRgb(image);
  if (how.resize !== null) seen = resize(seen, ...resizedSize(image, how), how.interpolation);
  seen = centerCrop(seen, how);
  return { input: normalize(seen, how), seen };
}

function toRgb({ width, height, data }) {
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    rgb[to] = data[from];
    rgb[to + 1] = data[from + 1];
    rgb[to + 2] = data[from + 2];
  }
  return { width, height, channels: 3, data: rgb };
}

function toGrey({ width, height, data }) {
  const grey = new Uint8Array(width * height);
  for (let from = 0, to = 0; to < grey.length; from += 4, to++) {
    grey[to] = (data[from] * 19595 + data[from + 1] * 38470 + data[from + 2] * 7471 + 32768) >> 16;
  }
  return { width, height, channels: 1, data: grey };
}

/** Returns [width, height] of an image after resizing. */
export function resizedSize({ width, height }, how) {
  if (typeof how.resize === "number") {
    const shorter = Math.min(width, height);
    return [width, height].map((side) => Math.max(1, Math.floor((how.resize * side) / shorter)));
  }
  const [rows, columns] = how.resize;
  if (how.fit === "stretch") return [columns, rows];
  const ratio = (how.fit === "contain" ? Math.max : Math.min)(height / rows, width / columns);
  return [width, height].map((side) => Math.max(1, halfEven(side / ratio)));
}

/** Returns the centre of an image, with borders where it is too small. */
function centerCrop({ width: before, height: rows, channels, data }, { size: [height, width], fill, crop_rounding: rounding }) {
  const left = cropStart(before, width, rounding), top = cropStart(rows, height, rounding);
  const cropped = new Uint8Array(width * height * channels);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const inside = x + left >= 0 && x + left < before && y + top >= 0 && y + top < rows;
      const from = ((y + top) * before + x + left) * channels;
      for (let channel = 0; channel < channels; channel++) {
        cropped[to++] = inside ? data[from + channel] : fill[channel % fill.length];
      }
    }
  }
  return { width, height, channels, data: cropped };
}

function cropStart(have, want, rounding) {
  if (have < want) return -Math.floor((want - have) / 2);
  return rounding === "half-even" ? halfEven((have - want) / 2) : Math.floor((have - want) / 2);
}

/** Rounds as Python does: halves go to the even neighbour. */
function halfEven(value) {
  const below = Math.floor(value), rest = value - below;
  return rest === 0.5 ? below + (below % 2) : Math.round(value);
}

/** Returns the tensor, a plane for each channel. Each step is rounded to float32. */
function normalize({ width, height, channels, data }, { channels: order, mean, std }) {
  const planes = new Float32Array(channels * width * height), round = Math.fround;
  for (let channel = 0, to = 0; channel < channels; channel++) {
    const from = order === "BGR" ? channels - 1 - channel : channel;
    const center = round(mean[channel]), spread = round(std[channel]);
    const values = Float32Array.from({ length: 256 }, (_, byte) => round(round(byte / 255) - center) / spread);
    for (let at = from; at < data.length; at += channels) planes[to++] = values[data[at]];
  }
  return { type: "float32", dims: [channels, height, width], data: planes };
}
