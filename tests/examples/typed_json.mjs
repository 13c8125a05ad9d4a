// JSON with typed arrays, as tests/examples/javascript.py writes and reads it: {"array": "Uint8Array", "base64": "…"}.
// It runs in node and in the page.

export const parse = (text) =>
  JSON.parse(text, (_, value) => {
    if (!value?.array) return value;
    const bytes = Uint8Array.from(atob(value.base64), (letter) => letter.charCodeAt(0));
    return new globalThis[value.array](bytes.buffer);
  });

export const stringify = (value) =>
  JSON.stringify(value, (_, value) => {
    if (!ArrayBuffer.isView(value)) return value;
    const bytes = new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
    let letters = "";
    for (let at = 0; at < bytes.length; at += 8192) letters += String.fromCharCode(...bytes.subarray(at, at + 8192));
    return { array: value.constructor.name, base64: btoa(letters) };
  });
