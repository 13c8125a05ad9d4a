// onnxruntime-web in a worker. Its number of threads is fixed when it starts.

/** Threads that this page may use: browsers give more than one only to isolated pages. */
export const MOST_THREADS = globalThis.crossOriginIsolated ? navigator.hardwareConcurrency : 1;

export class Runtime {
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #id = 0;

  constructor() {
    this.#worker.onmessage = ({ data: { id, result, error } }) => {
      const { done, fail } = this.#waiting.get(id);
      this.#waiting.delete(id);
      error === undefined ? done(result) : fail(new Error(error));
    };
    this.#worker.onerror = ({ message }) => {
      for (const { fail } of this.#waiting.values()) fail(new Error(message || "the worker src/worker.js does not start"));
      this.#waiting.clear();
    };
  }

  /** Returns a runtime that has started. */
  static async start(threads) {
    if (typeof WebAssembly !== "object") throw new Error("this browser has no WebAssembly, or it is switched off");
    const runtime = new Runtime();
    await runtime.#ask("start", { threads });
    return runtime;
  }

  /** Loads a file under a name; returns the milliseconds and the inputs. */
  load(name, bytes) {
    return this.#ask("load", { name, bytes });
  }

  /** Runs a network on named inputs; returns the milliseconds and the outputs. */
  run(name, inputs) {
    return this.#ask("run", { name, inputs });
  }

  stop() {
    this.#worker.terminate();
  }

  #ask(what, request) {
    return new Promise((done, fail) => {
      this.#waiting.set(++this.#id, { done, fail });
      this.#worker.postMessage({ id: this.#id, what, ...request });
    });
  }
}
