// Times networks in turn, so that whatever else the computer does slows all of them alike.

export const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b), middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

/**
 * Returns the milliseconds of each network: {load: number[], run: number[]}, in the order given.
 * @param {Network[]} networks
 * @param {object} image what they run on
 * @param {(share: number) => void} progress
 */
export async function measure(runtime, networks, image, { loads = 3, warmups = 3, runs = 20, progress = () => {} } = {}) {
  const found = networks.map(() => ({ load: [], run: [] }));
  for (let turn = 0; turn < loads; turn++) {
    for (const [i, network] of networks.entries()) found[i].load.push(await network.load(runtime));
  }
  const inputs = networks.map((network) => network.prepare(image).inputs);
  for (let turn = 0; turn < warmups + runs; turn++) {
    for (const [i, network] of networks.entries()) {
      const { ms } = await network.run(runtime, inputs[i]);
      if (turn >= warmups) found[i].run.push(ms);
    }
    progress((turn + 1) / (warmups + runs));
  }
  return found;
}
