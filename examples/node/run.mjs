// Prints the five best classes of an image: node run.mjs out/model.onnx photo.jpg
import { readFile } from "node:fs/promises";
import ort from "onnxruntime-node";
import sharp from "sharp";
import { readPreprocessing } from "../browser/src/metadata.js";
import { preprocess } from "../browser/src/preprocess.js";
import { best } from "../browser/src/scores.js";

const [file, image] = process.argv.slice(2);
const how = readPreprocessing(await readFile(file));
const { data, info } = await sharp(image).ensureAlpha().toColourspace("srgb").raw().toBuffer({ resolveWithObject: true });
const { input } = preprocess({ ...info, data }, how);
const session = await ort.InferenceSession.create(file);
const outputs = await session.run({ [how.input]: new ort.Tensor(input.type, input.data, [1, ...input.dims]) });
for (const { name, share } of best(outputs, how.classes, 5)) console.log(`${(100 * share).toFixed(2)}%  ${name}`);
