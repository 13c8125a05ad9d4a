// Browsers turn JPEG images as their EXIF tag says. qpass and out/run.py take the pixels as they are stored.

/** Returns a JPEG file without its EXIF segments; other files as they are. */
export function withoutExif(bytes) {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return bytes;
  const kept = [bytes.subarray(0, 2)];
  let at = 2;
  while (bytes[at] === 0xff && bytes[at + 1] !== 0xda) { // until the pixels start
    const end = at + 2 + bytes[at + 2] * 256 + bytes[at + 3];
    if (bytes[at + 1] !== 0xe1) kept.push(bytes.subarray(at, end));
    at = end;
  }
  kept.push(bytes.subarray(at));
  const joined = new Uint8Array(kept.reduce((size, part) => size + part.length, 0));
  for (let i = 0, to = 0; i < kept.length; to += kept[i++].length) joined.set(kept[i], to);
  return joined;
}
