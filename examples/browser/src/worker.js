// Runs networks beside the page, so that it stays responsive. One worker has one runtime with one number of threads.

/** A file with one Identity, on which the runtime starts: the time to load a network is then its own. */
const NOTHING = Uint8Array.from(
  atob("CAg6NwoQCgF4EgF5IghJZGVudGl0eRIBZ1oPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEBE="),
  (letter) => letter.charCodeAt(0),
);
const sessions = new Map();
let ort;

const requests = {
  /** Starts the runtime. */
  async start({ threads }) {
    const vendor = new URL("../vendor/", import.meta.url).href;
    try {
      ort = await import(`${vendor}ort.wasm.min.mjs`);
    } catch {
      throw new Error("onnxruntime-web is not in vendor/: run npm ci and npm run build in examples/browser");
    }
    Object.assign(ort.env.wasm, { wasmPaths: vendor, numThreads: threads });
    await (await ort.InferenceSession.create(NOTHING)).release();
  },

  /** Loads a file under a name, in place of what has that name. */
  async load({ name, bytes }) {
    await sessions.get(name)?.release();
    sessions.delete(name);
    const start = performance.now();
    const session = await ort.InferenceSession.create(bytes);
    const ms = performance.now() - start;
    sessions.set(name, session);
    return { ms, inputs: session.inputMetadata.map(({ name, shape }) => ({ name, shape })) };
  },

  /** Runs a network on named inputs: {type, dims, data} each. */
  async run({ name, inputs }) {
    const tensor = ([key, { type, dims, data }]) => [key, new ort.Tensor(type, data, dims)];
    const feeds = Object.fromEntries(Object.entries(inputs).map(tensor));
    const start = performance.now();
    const found = await sessions.get(name).run(feeds);
    const ms = performance.now() - start;
    const plain = ([key, { type, dims, data }]) => [key, { type, dims, data }];
    return { ms, outputs: Object.fromEntries(Object.entries(found).map(plain)) };
  },
};

self.onmessage = async ({ data: { id, what, ...request } }) => {
  try {
    self.postMessage({ id, result: await requests[what](request) });
  } catch (error) {
    self.postMessage({ id, error: error.message ?? String(error) });
  }
};
