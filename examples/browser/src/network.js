// One file in a runtime, with what it says about its images.
import { readPreprocessing } from "./metadata.js";
import { preprocess } from "./preprocess.js";
import { best } from "./scores.js";

export class Network {
  /**
   * @param {string} name what the runtime calls it
   * @param {string} file its path
   * @param {Uint8Array} bytes its content
   */
  constructor(name, file, bytes) {
    this.name = name;
    this.file = file;
    this.bytes = bytes;
    this.how = readPreprocessing(bytes);
  }

  /** Loads the file; returns the milliseconds. */
  async load(runtime) {
    const { ms, inputs } = await runtime.load(this.name, this.bytes);
    const others = inputs.map(({ name }) => name).filter((name) => name !== this.how.input);
    if (others.length) throw new Error(`has other inputs than images, ${others.join(", ")}: this page does not have them`);
    this.rows = inputs[0].shape[0];
    return ms;
  }

  /** Returns the inputs of a run on one image, and the pixels that the network sees. */
  prepare(image) {
    const { input, seen } = preprocess(image, this.how);
    return { inputs: { [this.how.input]: this.#batch(input) }, seen };
  }

  /** Returns the milliseconds of a run, its outputs and the best classes. */
  async run(runtime, inputs, count = 5) {
    const { ms, outputs } = await runtime.run(this.name, inputs);
    return { ms, outputs, classes: best(outputs, this.how.classes, count) };
  }

  /** Adds the batch dim. Some files hold for one batch size: the image is repeated. */
  #batch({ type, dims, data }) {
    const rows = typeof this.rows === "number" ? this.rows : 1;
    const batch = new Float32Array(rows * data.length);
    for (let row = 0; row < rows; row++) batch.set(data, row * data.length);
    return { type, dims: [rows, ...dims], data: batch };
  }
}
