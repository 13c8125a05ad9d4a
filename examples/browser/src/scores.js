// Finds the classes with the highest scores, as out/run.py does.

/**
 * Returns the best classes of one image, or null if no output holds scores.
 * @param {Object<string, {dims: number[], data: ArrayLike<number>}>} outputs
 * @returns {{name: string, share: number}[] | null}
 */
export function best(outputs, classes, count) {
  const tables = Object.keys(outputs).filter((name) => outputs[name].dims.length === 2);
  const chosen = "logits" in outputs ? outputs.logits : tables.length === 1 ? outputs[tables[0]] : null;
  if (chosen === null || ![2, 4].includes(chosen.dims.length)) return null;
  const shares = chosen.dims.length === 2 ? softmax(chosen) : pixelShares(chosen);
  const order = shares.map((_, i) => i).sort((a, b) => shares[b] - shares[a]);
  return order.slice(0, count).map((i) => ({ name: classes[i] ?? `class ${i}`, share: shares[i] }));
}

function softmax({ dims, data }) {
  const logits = Array.from(data.subarray(0, dims[1]), Number);
  const most = logits.reduce((a, b) => Math.max(a, b));
  const powers = logits.map((logit) => Math.exp(logit - most));
  const total = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / total);
}

/** Returns the share of an image's pixels in which each class of a segmentation is the best. */
function pixelShares({ dims: [, classes, height, width], data }) {
  const pixels = height * width, shares = Array(classes).fill(0);
  for (let pixel = 0; pixel < pixels; pixel++) {
    let most = 0;
    for (let i = 1; i < classes; i++) if (data[i * pixels + pixel] > data[most * pixels + pixel]) most = i;
    shares[most] += 1 / pixels;
  }
  return shares;
}
