// What the page shows. Nothing here computes.

const element = (id) => document.getElementById(id);
const number = (value, digits) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

export const megabytes = (bytes) => `${number(bytes / 1e6, 1)} MB`;
export const milliseconds = (ms) => `${number(ms, ms < 10 ? 1 : 0)} ms`;
const share = (value) => `${number(100 * value, 1)} %`;

export function showStatus(text) {
  element("status").textContent = text;
}

/** Shows an error, or hides the last one for "". */
export function showError(text) {
  element("error").textContent = text;
  element("error").hidden = text === "";
}

/** Shows the best classes, or what the outputs are if none holds scores. */
export function showAnswer(classes, outputs) {
  const describe = ([name, { type, dims }]) => ({ name: `${name}: ${type} (${dims.join(", ")})` });
  const rows = classes ?? Object.entries(outputs).map(describe);
  element("classes").replaceChildren(
    ...rows.map((row) => {
      const item = document.createElement("li");
      item.append(text("span", row.name));
      if (row.share !== undefined) {
        item.append(text("span", share(row.share)));
        item.style.setProperty("--share", `${100 * row.share}%`);
      }
      return item;
    }),
  );
  element("answer").hidden = false;
}

/** Shows sizes and times, one row for each file, and the ratio of two. */
export function showTable(rows) {
  const lines = rows.map(({ name, bytes, load, run }) => [name, megabytes(bytes), milliseconds(load), milliseconds(run)]);
  if (rows.length === 2) {
    const [float, quantized] = rows;
    const times = (key) => `${number(float[key] / quantized[key], 2)} ×`;
    lines.push(["Ratio", times("bytes"), times("load"), times("run")]);
  }
  element("table").tBodies[0].replaceChildren(
    ...lines.map(([first, ...others]) => {
      const row = document.createElement("tr"), head = text("th", first);
      head.scope = "row";
      row.append(head, ...others.map((other) => text("td", other)));
      return row;
    }),
  );
  element("table").hidden = false;
}

function text(name, content) {
  return Object.assign(document.createElement(name), { textContent: content });
}
