// The points of the map: how they come from the server, and how they are painted, pixel by pixel, so that 100,000 move at the screen's frame rate.
import { colour, element } from "./charts.js";

export const NO_GENRE = 127;
export const UNDECIDED = 128;
export const SIDE = 65_535; // of the square of the map's coordinates

/** {labels, ids, xs, ys, genres, box} from `/-/map.bin`, see indexer/web/library_map.py; box: {x, y, width, height} around all points. */
export function unpack(buffer) {
  const bytes = new Uint8Array(buffer);
  const end = bytes.indexOf(10);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
  const n = header.points;
  let from = end + 1;
  const part = (Kind) => { const made = new Kind(buffer, from, n); from += made.byteLength; return made; };
  const steps = part(Uint32Array);
  const ids = new Uint32Array(n);
  for (let i = 0, id = 0; i < n; i++) ids[i] = id += steps[i];
  const [xs, ys, genres] = [part(Uint16Array), part(Uint16Array), part(Uint8Array)];
  return { labels: header.labels, ids, xs, ys, genres, box: boxOf(xs, ys) };
}

function boxOf(xs, ys) {
  let [left, right, top, bottom] = [SIDE, 0, SIDE, 0];
  for (let i = 0; i < xs.length; i++) {
    left = Math.min(left, xs[i]);
    right = Math.max(right, xs[i]);
    top = Math.min(top, ys[i]);
    bottom = Math.max(bottom, ys[i]);
  }
  return { x: left, y: top, width: Math.max(1, right - left), height: Math.max(1, bottom - top) };
}

/** The view {x, y, scale} (upper left corner in map coordinates, pixels for each of their units) that shows all points with a margin in pixels. */
export function viewOfAll({ x, y, width, height }, canvas, margin) {
  const scale = Math.min(Math.max(1, canvas.width - 2 * margin) / width, Math.max(1, canvas.height - 2 * margin) / height);
  return { x: x + width / 2 - canvas.width / scale / 2, y: y + height / 2 - canvas.height / scale / 2, scale };
}

/** [red, green, blue] of each label, then of no genre, in the look of the page. */
export function paintsOf(labels) {
  const probe = element("i");
  document.body.append(probe);
  const paints = [...labels.keys(), null].map((n) => {
    probe.style.color = n === null ? "var(--ix-soft)" : colour(n);
    return getComputedStyle(probe).color.match(/\d+/g).slice(0, 3).map(Number);
  });
  probe.remove();
  return paints;
}

/** The pixels of a disc of this many pixels across: [dx, dy, coverage from 0 to 1]. */
function disc(size) {
  const found = [];
  const middle = (size - 1) / 2;
  for (let dy = 0; dy < size; dy++) {
    for (let dx = 0; dx < size; dx++) {
      const coverage = Math.min(1, size / 2 + 0.5 - Math.hypot(dx - middle, dy - middle));
      if (coverage > 0.1) found.push([dx, dy, coverage]);
    }
  }
  return found;
}

/** Paint all points as discs. paints: see paintsOf; hidden: the labels that are not shown; a label that is not decided is paler. */
export function paint(context, points, { x: left, y: top, scale }, size, paints, hidden = new Set()) {
  const { width, height } = context.canvas;
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const stamp = disc(size);
  const stamps = new Array(256).fill(null); // by a point's genre: [offset of the pixel, the 32-bit pixel]
  for (const [label, [r, g, b]] of paints.entries()) {
    if (hidden.has(label)) continue;
    const made = (alpha) => stamp.map(([dx, dy, coverage]) => [dy * width + dx, ((Math.round(alpha * coverage) << 24) | (b << 16) | (g << 8) | r) >>> 0]);
    const value = label < points.labels.length ? label : NO_GENRE;
    stamps[value] = made(255);
    if (value !== NO_GENRE) stamps[value | UNDECIDED] = made(110);
  }
  const { xs, ys, genres } = points;
  for (let i = 0; i < xs.length; i++) {
    const used = stamps[genres[i]];
    if (used === null) continue;
    const x = Math.round((xs[i] - left) * scale - size / 2);
    const y = Math.round((ys[i] - top) * scale - size / 2);
    if (x < 0 || y < 0 || x > width - size || y > height - size) continue;
    const at = y * width + x;
    for (let n = 0; n < used.length; n++) pixels[at + used[n][0]] = used[n][1];
  }
  context.putImageData(image, 0, 0);
}

/** How large points are: larger when there are few, and when the map is zoomed in (zoom: 1 shows all). */
export function sizeOf(count, { width, height }, zoom = 1) {
  const ratio = window.devicePixelRatio || 1;
  return Math.round(Math.max(2 * ratio, Math.min(11 * ratio, (Math.sqrt((width * height) / Math.max(1, count)) * Math.sqrt(zoom)) / 3)));
}
