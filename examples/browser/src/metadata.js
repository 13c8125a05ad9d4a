// Reads what an ONNX file says about its images. onnxruntime-web does not show a file's metadata, so the fields of the
// protobuf message are walked here; the graph with its weights is one field, which is skipped.

const KEY = "qpass.preprocessing";
/** Fields of ModelProto, and of an entry of its metadata. */
const GRAPH = 7, METADATA = 14, ENTRY_KEY = 1, ENTRY_VALUE = 2;

/**
 * Returns the preprocessing of a file: what preprocessing.json holds.
 * @param {Uint8Array} bytes content of the file
 * @throws {Error} if it is no ONNX file, or does not say how its images are preprocessed
 */
export function readPreprocessing(bytes) {
  const text = readMetadata(bytes).get(KEY);
  if (text === undefined) {
    throw new Error(
      `does not say how its images are preprocessed (metadata ${KEY}): write it with qpass quantize, or with ` +
        "export_onnx(…, preprocessing=…)",
    );
  }
  return JSON.parse(text);
}

/** Returns the metadata of an ONNX file, as a Map of texts. */
export function readMetadata(bytes) {
  const metadata = new Map(), decoder = new TextDecoder();
  let hasGraph = false;
  for (const [field, content] of fields(bytes)) {
    hasGraph ||= field === GRAPH;
    if (field === METADATA) {
      const entry = new Map([...fields(content)].map(([key, value]) => [key, decoder.decode(value)]));
      metadata.set(entry.get(ENTRY_KEY), entry.get(ENTRY_VALUE) ?? "");
    }
  }
  if (!hasGraph) throw new Error("is no ONNX file, or is cut off");
  return metadata;
}

/** Yields [number, bytes] of each field with bytes; other fields are skipped. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    for (let value = 0, factor = 1; at < bytes.length && factor < 2 ** 63; factor *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
    throw new Error("is no ONNX file, or is cut off");
  };
  while (at < bytes.length) {
    const tag = varint(), kind = tag % 8;
    if (kind === 0) {
      varint();
      continue;
    }
    const size = { 1: 8, 2: kind === 2 ? varint() : 0, 5: 4 }[kind];
    if (size === undefined || at + size > bytes.length) throw new Error("is no ONNX file, or is cut off");
    if (kind === 2) yield [Math.floor(tag / 8), bytes.subarray(at, at + size)];
    at += size;
  }
}
