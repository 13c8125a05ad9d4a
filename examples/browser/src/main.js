// Connects the page: files -> networks in a runtime, an image -> the answer, a button -> the comparison.
import { useCamera } from "./camera.js";
import { decode, show } from "./images.js";
import { measure, median } from "./measure.js";
import { Network } from "./network.js";
import { MOST_THREADS, Runtime } from "./runtime.js";
import { megabytes, milliseconds, showAnswer, showError, showStatus, showTable } from "./view.js";

const element = (id) => document.getElementById(id);
const networks = { float: null, quantized: null };
const NAMES = { float: "Float", quantized: "Quantized" };
let runtime = null, picture = null;

/** Runs tasks one after another; an error is shown and ends its task alone. */
let last = Promise.resolve();
function enqueue(task) {
  last = last.then(() => showError("")).then(task).catch((error) => {
    showStatus("");
    showError(error.message);
    element("answer").hidden = true;
  });
}

/** Starts the runtime, unless it runs already. */
async function start() {
  if (runtime) return;
  showStatus("Starting onnxruntime-web …");
  runtime = await Runtime.start(Number(element("threads").value));
}

async function useThreads() {
  runtime?.stop();
  runtime = null;
  for (const role of Object.keys(networks)) if (networks[role]) await load(role);
  element("table").hidden = true;
  await answer();
}

async function useFile(role, file) {
  try {
    networks[role] = null;
    networks[role] = new Network(role, file.name, new Uint8Array(await file.arrayBuffer()));
    await load(role);
  } catch (error) {
    networks[role] = null;
    element(`${role}-state`).textContent = "";
    throw new Error(`${file.name} ${error.message}`);
  } finally {
    element("table").hidden = true;
    ready();
  }
  await answer();
}

async function load(role) {
  await start();
  showStatus(`Loading the ${role} file …`);
  const ms = await networks[role].load(runtime);
  const { file, bytes } = networks[role];
  element(`${role}-state`).textContent = `${file}: ${megabytes(bytes.length)}, loaded in ${milliseconds(ms)}`;
}

async function useImage(source) {
  picture = null;
  ready();
  picture = await source();
  ready();
  await answer();
}

async function answer() {
  const network = networks.quantized ?? networks.float;
  const missing = [[network, "a quantized file"], [picture, "an image"]].filter(([value]) => !value).map(([, name]) => name);
  if (missing.length) return showStatus(`Choose ${missing.join(" and ")}.`);
  const began = performance.now();
  const { inputs, seen } = network.prepare(picture);
  const prepared = performance.now() - began;
  const { ms, outputs, classes } = await network.run(runtime, inputs);
  show(seen, element("seen"));
  showAnswer(classes, outputs);
  showStatus(`${NAMES[network.name]} file: ${milliseconds(ms)}, and ${milliseconds(prepared)} to prepare the image.`);
}

async function compare() {
  const chosen = Object.values(networks), progress = element("progress");
  progress.hidden = false;
  try {
    const found = await measure(runtime, chosen, picture, { progress: (share) => (progress.value = share) });
    showTable(chosen.map((network, i) => ({
      name: NAMES[network.name], bytes: network.bytes.length, load: median(found[i].load), run: median(found[i].run),
    })));
  } finally {
    progress.hidden = true;
  }
}

function ready() {
  element("measure").disabled = !(networks.float && networks.quantized && picture);
}

/** Loads a file that lies beside the page, if there is one. */
async function useServed(role, path) {
  const response = await fetch(path).catch(() => null);
  if (response?.ok) await useFile(role, new File([await response.arrayBuffer()], path));
}

for (let threads = 1; threads <= MOST_THREADS; threads++) element("threads").add(new Option(threads, threads));
element("threads").value = Math.min(MOST_THREADS, 4); // more seldom help
if (!globalThis.crossOriginIsolated) {
  element("threads-state").textContent = "more than one needs npm start, which isolates the page";
}
element("threads").onchange = () => enqueue(useThreads);
for (const role of ["quantized", "float"]) {
  element(role).onchange = ({ target }) => target.files.length && enqueue(() => useFile(role, target.files[0]));
}
element("image").onchange = ({ target }) => target.files.length && enqueue(() => useImage(() => decode(target.files[0])));
element("measure").onclick = () => enqueue(compare);
useCamera(
  { start: element("camera"), shoot: element("shoot"), video: element("video") },
  (taken) => enqueue(() => useImage(() => taken)),
  (error) => enqueue(() => { throw error; }),
);

const drop = element("drop");
for (const [event, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  drop.addEventListener(event, (dragged) => {
    dragged.preventDefault();
    drop.classList.toggle("over", over);
  });
}
drop.addEventListener("drop", ({ dataTransfer: { files } }) => files.length && enqueue(() => useImage(() => decode(files[0]))));

enqueue(async () => {
  await start();
  await useServed("quantized", "out/model.onnx");
  await useServed("float", "out/float.onnx");
  await answer();
});
