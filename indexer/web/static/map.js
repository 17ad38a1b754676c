// The map: the library as points that are zoomed, moved, played and encircled.
import { colour, element } from "./charts.js";
import { NO_GENRE, paint, paintsOf, sizeOf, UNDECIDED, unpack, viewOfAll } from "./points.js";

const at = (id) => document.getElementById(id);
const canvas = at("map");
const context = canvas.getContext("2d");
const tip = at("tip");
const player = at("player");
const CELLS = 256; // on each side of the grid that finds the point under the pointer
const MAX_IN_TABLE = 900; // ids that fit into an address
const MAX_IN_PLAYLIST = 10_000; // as indexer/web/playlist.py has it

let points; // see unpack in points.js
let cells; // see grid
let view = { x: 0, y: 0, scale: 1 }; // the part that is shown: its upper left corner in map coordinates, pixels for each of their units
const hidden = new Set(); // labels that are not shown
let paints = []; // see paintsOf in points.js
let ring = []; // the lasso, in map coordinates: it stays around its points when the map moves
let chosen = [];
let wanted = false; // whether a frame is requested

/** The number of each point by the cell of a grid that it lies in, and where each cell begins. */
function grid({ xs, ys }) {
  const cell = (i) => (ys[i] >> 8) * CELLS + (xs[i] >> 8);
  const starts = new Uint32Array(CELLS * CELLS + 1);
  for (let i = 0; i < xs.length; i++) starts[cell(i) + 1]++;
  for (let c = 0; c < CELLS * CELLS; c++) starts[c + 1] += starts[c];
  const fill = starts.slice();
  const numbers = new Uint32Array(xs.length);
  for (let i = 0; i < xs.length; i++) numbers[fill[cell(i)]++] = i;
  return { starts, points: numbers };
}

const labelOf = (i) => (points.genres[i] === NO_GENRE ? points.labels.length : points.genres[i] & (UNDECIDED - 1));

function resize() {
  const ratio = window.devicePixelRatio || 1;
  const box = canvas.getBoundingClientRect();
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  draw();
}

const toMap = (x, y) => [view.x + x / view.scale, view.y + y / view.scale];

function draw() {
  if (wanted) return;
  wanted = true;
  requestAnimationFrame(() => { wanted = false; paintAll(); });
}

function paintAll() {
  if (!points || !canvas.width || !canvas.height) return;
  paint(context, points, view, sizeOf(points.ids.length, canvas, view.scale / wholeScale()), paints, hidden);
  if (ring.length > 1) {
    context.beginPath();
    for (const [x, y] of ring) context.lineTo((x - view.x) * view.scale, (y - view.y) * view.scale);
    context.closePath();
    context.lineWidth = 2 * (window.devicePixelRatio || 1);
    context.strokeStyle = getComputedStyle(canvas).color;
    context.stroke();
  }
}

const viewOfWhole = () => viewOfAll(points.box, canvas, 16 * (window.devicePixelRatio || 1));
const wholeScale = () => viewOfWhole().scale;

function zoom(factor, x = canvas.width / 2, y = canvas.height / 2) {
  const [mx, my] = toMap(x, y);
  view.scale = Math.max(0.75 * wholeScale(), Math.min(400 * wholeScale(), view.scale * factor));
  view.x = mx - x / view.scale;
  view.y = my - y / view.scale;
  draw();
}

function whole() {
  view = viewOfWhole();
  draw();
}

/** The shown point nearest to a place on the canvas, within a finger's width (in CSS pixels); -1: none. */
function under(x, y, within = 12) {
  const reach = (within * (window.devicePixelRatio || 1)) / view.scale;
  const [mx, my] = toMap(x, y);
  let best = -1;
  let distance = reach * reach;
  const low = (value) => Math.max(0, Math.min(CELLS - 1, (value - reach) >> 8));
  const high = (value) => Math.max(0, Math.min(CELLS - 1, (value + reach) >> 8));
  for (let row = low(my); row <= high(my); row++) {
    for (let place = cells.starts[row * CELLS + low(mx)]; place < cells.starts[row * CELLS + high(mx) + 1]; place++) {
      const i = cells.points[place];
      const d = (points.xs[i] - mx) ** 2 + (points.ys[i] - my) ** 2;
      if (d < distance && !hidden.has(labelOf(i))) [best, distance] = [i, d];
    }
  }
  return best;
}

const titles = new Map();
async function titleOf(i) {
  if (!titles.has(points.ids[i])) titles.set(points.ids[i], fetch(`${canvas.dataset.track}${points.ids[i]}.json`).then((answer) => answer.json()));
  return titles.get(points.ids[i]);
}

/** A track's genre behind its name: by the word that counts, else what the model guesses. */
const genreOf = ({ label, genre, confidence }) => (label ? ` · ${label}` : genre ? ` · perhaps ${genre} (${Math.round(100 * confidence)} %)` : "");

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
    tip.textContent = track.name + genreOf(track);
    tip.hidden = false;
    tip.style.left = `${Math.min(boxX + 12, canvas.clientWidth - tip.offsetWidth - 4)}px`;
    tip.style.top = `${Math.max(0, boxY - tip.offsetHeight - 8)}px`;
  }).catch(() => {});
}

async function choose(i) {
  const track = await titleOf(i);
  at("now").hidden = false;
  at("name").replaceChildren(element("a", { href: canvas.dataset.page + track.id }, track.name), genreOf(track));
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
  for (let i = 0; i < points.ids.length; i++) if (!hidden.has(labelOf(i)) && inside(points.xs[i], points.ys[i])) chosen.push(points.ids[i]);
  at("chosen").hidden = false;
  const many = chosen.length > MAX_IN_PLAYLIST ? "; a playlist holds at most 10,000" : chosen.length > MAX_IN_TABLE ? "; too many for a table" : "";
  at("count").textContent = `${chosen.length.toLocaleString("en")} ${chosen.length === 1 ? "track" : "tracks"} encircled${many}`;
  for (const form of ["playlist", "rekordbox"]) at(form).disabled = !chosen.length || chosen.length > MAX_IN_PLAYLIST;
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
    view.x -= (x - before[0]) / view.scale;
    view.y -= (y - before[1]) / view.scale;
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
  const step = Math.min(canvas.width, canvas.height) / view.scale / 10;
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
  const counts = new Array(points.labels.length + 1).fill(0);
  for (let i = 0; i < points.ids.length; i++) counts[labelOf(i)]++;
  const buttons = counts.map((count, n) => {
    if (!count) return null;
    const square = element("i", { "aria-hidden": "true", class: "ix-square" });
    square.style.setProperty("--colour", n < points.labels.length ? colour(n) : "var(--ix-soft)");
    const button = element("button", { type: "button", "aria-pressed": "true" }, square, `${points.labels[n] ?? "other or no genre"} ${count.toLocaleString("en")}`);
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
dark.addEventListener("change", () => { paints = paintsOf(points.labels); draw(); });

try {
  const answer = await fetch(canvas.dataset.points);
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  points = unpack(await answer.arrayBuffer());
  cells = grid(points);
  paints = paintsOf(points.labels);
  legend();
  at("state").textContent = `${points.ids.length.toLocaleString("en")} recordings; paler points are not sure enough.`;
  new ResizeObserver(resize).observe(canvas);
  resize();
  whole();
} catch (error) {
  at("state").textContent = `The map could not be loaded: ${error.message}`;
}
