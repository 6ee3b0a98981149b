import { dot, principalPlane } from "./map.js";

const PER_REQUEST = 64;
const ON_THE_MAP = 300;
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);
const known = new Map(); // line -> its embedding

function lines() {
  const all = at("lines").value.split("\n").map((line) => line.trim()).filter(Boolean);
  return [...new Set(all)];
}

function headers() {
  const key = at("key").value.trim();
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

async function asked(path, options) {
  let response;
  try {
    response = await fetch(path, { headers: headers(), ...options });
  } catch {
    throw new Error("The server cannot be reached. Is it still running?");
  }
  const content = await response.json().catch(() => ({}));
  if (response.ok) return content;
  if (response.status === 401) {
    at("key-field").hidden = false;
    at("key").focus();
  }
  throw new Error(content.error?.message ?? `The server answers with the code ${response.status}.`);
}

function decoded(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

async function embeddings(input, inputType) {
  const body = JSON.stringify({ input, input_type: inputType, encoding_format: "base64" });
  const { data } = await asked("v1/embeddings", { method: "POST", body });
  return data.map((item) => decoded(item.embedding));
}

async function encodeLines(wanted) {
  const fresh = wanted.filter((line) => !known.has(line));
  for (let start = 0; start < fresh.length; start += PER_REQUEST) {
    at("status").textContent = `Encoding ${start} of ${fresh.length} new lines …`;
    const part = fresh.slice(start, start + PER_REQUEST);
    (await embeddings(part, "document")).forEach((one, i) => known.set(part[i], one));
  }
}

async function rank() {
  const wanted = lines();
  const query = at("query").value.trim();
  if (!wanted.length) throw new Error("Paste at least one line.");
  if (!query) throw new Error("Type a query.");
  const start = performance.now();
  await encodeLines(wanted);
  at("status").textContent = "Encoding the query …";
  const [one] = await embeddings([query], "query");
  const ranked = wanted
    .map((text) => ({ text, embedding: known.get(text), score: dot(known.get(text), one) }))
    .sort((a, b) => b.score - a.score);
  showRanking(ranked);
  showMap(query, one, ranked.slice(0, ON_THE_MAP));
  const seconds = ((performance.now() - start) / 1000).toFixed(2);
  at("status").textContent = `Ranked ${wanted.length} ${plural(wanted.length)} in ${seconds} s.`;
}

const plural = (count) => (count === 1 ? "line" : "lines");

// What was pasted is only ever set as text, never read as HTML.
function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function showRanking(ranked) {
  const [highest, lowest] = [ranked[0].score, ranked.at(-1).score];
  const items = ranked.map(({ text, score }, i) => {
    const item = document.createElement("li");
    const bar = element("div", "bar");
    const filled = document.createElement("i");
    const share = highest > lowest ? (score - lowest) / (highest - lowest) : 1;
    filled.style.width = `${Math.max(1, 100 * share)}%`;
    bar.append(filled);
    item.append(element("span", "rank", `${i + 1}`), element("span", "text", text));
    item.append(element("span", "score", score.toFixed(3)), bar);
    item.tabIndex = 0;
    item.dataset.rank = i + 1;
    for (const event of ["focus", "mouseenter"]) item.addEventListener(event, () => pick(i + 1));
    return item;
  });
  at("ranking").replaceChildren(...items);
  at("ranking").scrollTop = 0;
}

function drawn(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function showMap(query, embedding, ranked) {
  const { points, shares } = principalPlane([embedding, ...ranked.map((r) => r.embedding)]);
  at("map").removeAttribute("hidden");
  const width = at("map").clientWidth; // so that letters keep their size on a narrow screen
  const height = Math.round(0.75 * width);
  at("map").setAttribute("viewBox", `0 0 ${width} ${height}`);
  const place = onPaper(points, width, height, 44);
  const frame = { class: "frame", x: 1, y: 1, width: width - 2, height: height - 2, rx: 6 };
  const marks = ranked.map(({ text }, i) => {
    const [x, y] = place[i + 1];
    const disc = drawn("circle", { class: "line", cx: x, cy: y, r: 5 });
    return mark(disc, `${i + 1}`, { x: x + 10, y: y + 5 }, text, i + 1);
  });
  const [x, y] = place[0];
  const diamond = drawn("path", { class: "query", d: `M${x} ${y - 9}l9 9-9 9-9-9z` });
  const above = { class: "of-query", x, y: y - 15, "text-anchor": "middle" };
  // The best lines last, above the others and the query, which is larger.
  const all = [drawn("rect", frame), mark(diamond, "query", above, query, 0), ...marks.reverse()];
  at("map").replaceChildren(...all);
  at("picked").textContent = "";
  const [across, up] = shares.map((share) => Math.round(100 * share));
  const shown = `They show ${across} % and ${up} % of the differences.`;
  at("map-hint").textContent =
    `The two directions in which the embeddings differ most. ${shown} Numbers are ranks.`;
}

function mark(shape, label, place, text, rank) {
  const group = drawn("g", { "data-rank": rank });
  const title = drawn("title", {});
  title.textContent = text;
  const name = drawn("text", place);
  name.textContent = label;
  group.append(title, shape, name);
  if (rank) group.addEventListener("mouseenter", () => pick(rank));
  return group;
}

function onPaper(points, width, height, margin) {
  const bounds = [0, 1].map((axis) => {
    const values = points.map((point) => point[axis]);
    return [Math.min(...values), Math.max(...values)];
  });
  const scaled = (value, [low, high], size) =>
    high > low ? margin + ((value - low) / (high - low)) * (size - 2 * margin) : size / 2;
  return points.map(([x, y]) => [
    Math.round(scaled(x, bounds[0], width)), Math.round(height - scaled(y, bounds[1], height)),
  ]);
}

function pick(rank) {
  for (const marked of document.querySelectorAll(".picked")) marked.classList.remove("picked");
  for (const wanted of document.querySelectorAll(`[data-rank="${rank}"]`)) {
    wanted.classList.add("picked");
    if (wanted.tagName === "g") wanted.parentNode.append(wanted); // above the others
  }
  at("picked").textContent =
    `${rank}. ${document.querySelector(`li[data-rank="${rank}"] .text`).textContent}`;
}

async function attempt(work) {
  at("error").hidden = true;
  at("go").disabled = true;
  try {
    await work();
  } catch (error) {
    at("status").textContent = "";
    at("error").textContent = error.message;
    at("error").hidden = false;
  }
  at("go").disabled = false;
}

function count() {
  const { length } = lines();
  at("count").textContent = `${length} ${plural(length)}`;
}

async function introduce() {
  const { data } = await asked("v1/models", {});
  at("model").textContent = `by ${data[0].id}`;
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(rank);
});
at("lines").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
});
at("lines").addEventListener("input", count);
at("key").addEventListener("change", () => attempt(introduce));
count();
attempt(introduce);
