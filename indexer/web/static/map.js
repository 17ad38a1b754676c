// Draws the library as a scatter plot, pixel by pixel, so that 100,000 points move at the screen's frame rate.
import { colour, element } from "./charts.js";

const at = (id) => document.getElementById(id);
const canvas = at("map");
const context = canvas.getContext("2d");
const tip = at("tip");
const player = at("player");
const NO_GENRE = 127;
const UNDECIDED = 128;
const SIDE = 65_535; // of the square of the map's coordinates
const CELLS = 256; // on each side of the grid that finds the point under the pointer
const MAX_IN_TABLE = 900; // ids that fit into an address
const MAX_IN_PLAYLIST = 10_000; // as indexer/web/playlist.py has it

let labels = [];
let ids, xs, ys, genres; // of all points
let cells; // point numbers by cell, and where each cell begins
let view = { x: 0, y: 0, side: SIDE }; // the part that is shown: its upper left corner and its width, in map coordinates
const hidden = new Set(); // labels that are not shown
let paints = []; // [red, green, blue] by label, then of no genre
let image; // the canvas's pixels, kept from frame to frame
let ring = []; // the lasso, in map coordinates: it stays around its points when the map moves
let chosen = [];
let wanted = false; // whether a frame is requested

function unpack(buffer) {
  const bytes = new Uint8Array(buffer);
  const end = bytes.indexOf(10);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
  const n = header.points;
  let from = end + 1;
  const part = (Kind) => { const made = new Kind(buffer, from, n); from += made.byteLength; return made; };
  const steps = part(Uint32Array);
  labels = header.labels;
  ids = new Uint32Array(n);
  for (let i = 0, id = 0; i < n; i++) ids[i] = id += steps[i];
  xs = part(Uint16Array);
  ys = part(Uint16Array);
  genres = part(Uint8Array);
  const cell = (i) => (ys[i] >> 8) * CELLS + (xs[i] >> 8);
  const starts = new Uint32Array(CELLS * CELLS + 1);
  for (let i = 0; i < n; i++) starts[cell(i) + 1]++;
  for (let c = 0; c < CELLS * CELLS; c++) starts[c + 1] += starts[c];
  const fill = starts.slice();
  const points = new Uint32Array(n);
  for (let i = 0; i < n; i++) points[fill[cell(i)]++] = i;
  cells = { starts, points };
}

const labelOf = (i) => (genres[i] === NO_GENRE ? labels.length : genres[i] & (UNDECIDED - 1));

function readColours() {
  const probe = element("i");
  document.body.append(probe);
  paints = [...labels.keys(), null].map((n) => {
    probe.style.color = n === null ? "var(--ix-soft)" : colour(n);
    return getComputedStyle(probe).color.match(/\d+/g).slice(0, 3).map(Number);
  });
  probe.remove();
}

function resize() {
  const ratio = window.devicePixelRatio || 1;
  const box = canvas.getBoundingClientRect();
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  draw();
}

/** Pixels for each unit of map coordinates; the smaller dimension shows the whole map. */
const scale = () => Math.min(canvas.width, canvas.height) / view.side;
const toMap = (x, y) => [view.x + x / scale(), view.y + y / scale()];

function draw() {
  if (wanted) return;
  wanted = true;
  requestAnimationFrame(() => { wanted = false; paint(); });
}

/** The 32-bit pixel for every value of a point's genre; 0 for a genre that is not shown. */
function paletteNow() {
  const palette = new Uint32Array(256);
  for (const [label, [r, g, b]] of paints.entries()) {
    if (hidden.has(label)) continue;
    const rgb = (b << 16) | (g << 8) | r;
    const value = label < labels.length ? label : NO_GENRE;
    palette[value] = (255 << 24) | rgb;
    if (value !== NO_GENRE) palette[value | UNDECIDED] = (110 << 24) | rgb;
  }
  return palette;
}

function paint() {
  if (!ids || !canvas.width || !canvas.height) return;
  const { width, height } = canvas;
  if (image?.width !== width || image.height !== height) image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  pixels.fill(0);
  const s = scale();
  // Points are larger when there are few, and when the map is zoomed in.
  const room = Math.sqrt((width * height) / Math.max(1, ids.length)) * Math.sqrt(SIDE / view.side);
  const size = Math.max(2, Math.min(9 * (window.devicePixelRatio || 1), Math.round(room / 2)));
  const palette = paletteNow();
  const [left, top] = [view.x + size / 2 / s, view.y + size / 2 / s];
  const [lastX, lastY] = [width - size, height - size];
  for (let i = 0; i < ids.length; i++) {
    const word = palette[genres[i]];
    if (word === 0) continue;
    const x = Math.floor((xs[i] - left) * s);
    const y = Math.floor((ys[i] - top) * s);
    if (x < 0 || y < 0 || x > lastX || y > lastY) continue;
    for (let dy = 0, row = y * width + x; dy < size; dy++, row += width) for (let dx = 0; dx < size; dx++) pixels[row + dx] = word;
  }
  context.putImageData(image, 0, 0);
  if (ring.length > 1) {
    context.beginPath();
    for (const [x, y] of ring) context.lineTo((x - view.x) * s, (y - view.y) * s);
    context.closePath();
    context.lineWidth = 2 * (window.devicePixelRatio || 1);
    context.strokeStyle = getComputedStyle(canvas).color;
    context.stroke();
  }
}

function zoom(factor, x = canvas.width / 2, y = canvas.height / 2) {
  const side = Math.min(1.3 * SIDE, Math.max(SIDE / 400, view.side / factor));
  const [mx, my] = toMap(x, y);
  view.side = side;
  view.x = mx - x / scale();
  view.y = my - y / scale();
  draw();
}

function whole() {
  view.side = 1.04 * SIDE;
  view.x = (SIDE - canvas.width / scale()) / 2;
  view.y = (SIDE - canvas.height / scale()) / 2;
  draw();
}

/** The shown point nearest to a place on the canvas, within a finger's width (in CSS pixels); -1: none. */
function under(x, y, within = 12) {
  const reach = (within * (window.devicePixelRatio || 1)) / scale();
  const [mx, my] = toMap(x, y);
  let best = -1;
  let distance = reach * reach;
  const low = (value) => Math.max(0, Math.min(CELLS - 1, (value - reach) >> 8));
  const high = (value) => Math.max(0, Math.min(CELLS - 1, (value + reach) >> 8));
  for (let row = low(my); row <= high(my); row++) {
    for (let place = cells.starts[row * CELLS + low(mx)]; place < cells.starts[row * CELLS + high(mx) + 1]; place++) {
      const i = cells.points[place];
      const d = (xs[i] - mx) ** 2 + (ys[i] - my) ** 2;
      if (d < distance && !hidden.has(labelOf(i))) [best, distance] = [i, d];
    }
  }
  return best;
}

const titles = new Map();
async function titleOf(i) {
  if (!titles.has(ids[i])) titles.set(ids[i], fetch(`${canvas.dataset.track}${ids[i]}.json`).then((answer) => answer.json()));
  return titles.get(ids[i]);
}

let hovered = -1;
function hover(x, y, boxX, boxY) {
  const i = under(x, y);
  canvas.style.cursor = i < 0 ? "" : "pointer";
  if (i === hovered) return;
  hovered = i;
  tip.hidden = true;
  if (i < 0) return;
  titleOf(i).then((track) => {
    if (hovered !== i) return;
    tip.textContent = track.genre ? `${track.name} · ${track.genre} ${Math.round(100 * track.confidence)} %` : track.name;
    tip.hidden = false;
    tip.style.left = `${Math.min(boxX + 12, canvas.clientWidth - tip.offsetWidth - 4)}px`;
    tip.style.top = `${Math.max(0, boxY - tip.offsetHeight - 8)}px`;
  }).catch(() => {});
}

async function choose(i) {
  const track = await titleOf(i);
  at("now").hidden = false;
  at("name").replaceChildren(element("a", { href: canvas.dataset.page + track.id }, track.name), track.genre ? ` · ${track.genre} ${Math.round(100 * track.confidence)} %` : "");
  player.hidden = !track.playable;
  if (track.playable) {
    player.src = canvas.dataset.sound + track.id;
    player.play().catch(() => {});
  }
}

function inside(x, y) {
  let odd = false;
  for (let n = 0, m = ring.length - 1; n < ring.length; m = n++) {
    const [ax, ay] = ring[n];
    const [bx, by] = ring[m];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
  }
  return odd;
}

function encircled() {
  chosen = [];
  for (let i = 0; i < ids.length; i++) if (!hidden.has(labelOf(i)) && inside(xs[i], ys[i])) chosen.push(ids[i]);
  at("chosen").hidden = false;
  const many = chosen.length > MAX_IN_PLAYLIST ? "; a playlist holds at most 10,000" : chosen.length > MAX_IN_TABLE ? "; too many for a table" : "";
  at("count").textContent = `${chosen.length.toLocaleString("en")} ${chosen.length === 1 ? "track" : "tracks"} encircled${many}`;
  at("playlist").disabled = !chosen.length || chosen.length > MAX_IN_PLAYLIST;
  at("ids").value = chosen.join(",");
  at("table").hidden = !chosen.length || chosen.length > MAX_IN_TABLE;
  at("table").href = `${canvas.dataset.table}?id__in=${chosen.join(",")}`;
}

function clear() {
  ring = [];
  at("chosen").hidden = true;
  draw();
}

const lassoOn = () => at("lasso").getAttribute("aria-pressed") === "true";
const pointers = new Map(); // pointers that are down: id -> last place
let moved = 0;

function place(event) {
  const box = canvas.getBoundingClientRect();
  const ratio = canvas.width / box.width;
  return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio, event.clientX - box.left, event.clientY - box.top];
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, place(event));
  moved = 0;
  const [x, y] = place(event);
  if (lassoOn()) ring = [toMap(x, y)];
});
canvas.addEventListener("pointermove", (event) => {
  const [x, y, boxX, boxY] = place(event);
  const before = pointers.get(event.pointerId);
  if (!before) {
    hover(x, y, boxX, boxY);
    return;
  }
  moved += Math.abs(x - before[0]) + Math.abs(y - before[1]);
  if (pointers.size === 2) {
    const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, where]) => where);
    const distance = (a) => Math.hypot(a[0] - other[0], a[1] - other[1]) || 1;
    zoom(distance([x, y]) / distance(before), (x + other[0]) / 2, (y + other[1]) / 2);
  } else if (lassoOn()) ring.push(toMap(x, y));
  else {
    view.x -= (x - before[0]) / scale();
    view.y -= (y - before[1]) / scale();
  }
  pointers.set(event.pointerId, [x, y]);
  draw();
});
function up(event) {
  if (!pointers.delete(event.pointerId)) return;
  const [x, y] = place(event);
  if (moved < 6) {
    if (lassoOn()) clear();
    const i = under(x, y);
    if (i >= 0 && event.type === "pointerup") choose(i);
  } else if (lassoOn() && ring.length > 2) encircled();
}
canvas.addEventListener("pointerup", up);
canvas.addEventListener("pointercancel", up);
canvas.addEventListener("pointerleave", () => { tip.hidden = true; hovered = -1; });
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const [x, y] = place(event);
  zoom(Math.exp(-event.deltaY / 300), x, y);
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const step = view.side / 10;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (event.key in moves) {
    view.x += moves[event.key][0];
    view.y += moves[event.key][1];
    draw();
  } else if (event.key === "+" || event.key === "=") zoom(1.4);
  else if (event.key === "-") zoom(1 / 1.4);
  else if (event.key === "0") whole();
  else if (event.key === "Escape") clear();
  else if (event.key === "Enter") {
    const i = under(canvas.width / 2, canvas.height / 2, 60); // without a pointer, the point in the middle
    if (i >= 0) choose(i);
  }
  else return;
  event.preventDefault();
});
at("lasso").addEventListener("click", () => {
  at("lasso").setAttribute("aria-pressed", String(!lassoOn()));
  clear();
});
at("in").addEventListener("click", () => zoom(1.6));
at("out").addEventListener("click", () => zoom(1 / 1.6));
at("whole").addEventListener("click", whole);
at("clear").addEventListener("click", clear);

function legend() {
  const counts = new Array(labels.length + 1).fill(0);
  for (let i = 0; i < ids.length; i++) counts[labelOf(i)]++;
  const buttons = counts.map((count, n) => {
    if (!count) return null;
    const square = element("i", { "aria-hidden": "true", class: "ix-square" });
    square.style.setProperty("--colour", n < labels.length ? colour(n) : "var(--ix-soft)");
    const button = element("button", { type: "button", "aria-pressed": "true" }, square, `${labels[n] ?? "no genre"} ${count.toLocaleString("en")}`);
    button.addEventListener("click", () => {
      if (!hidden.delete(n)) hidden.add(n);
      button.setAttribute("aria-pressed", String(!hidden.has(n)));
      clear();
    });
    return button;
  });
  at("legend").replaceChildren(...buttons.filter(Boolean));
}

const dark = window.matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => { readColours(); draw(); });

try {
  const answer = await fetch(canvas.dataset.points);
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  unpack(await answer.arrayBuffer());
  readColours();
  legend();
  at("state").textContent = `${ids.length.toLocaleString("en")} recordings; paler points are not sure enough.`;
  new ResizeObserver(resize).observe(canvas);
  resize();
  whole();
} catch (error) {
  at("state").textContent = `The map could not be loaded: ${error.message}`;
}
