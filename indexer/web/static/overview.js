// The home page: a small map, and the state of the scan, requested again every few seconds.
import { element } from "./charts.js";
import { paint, paintsOf, sizeOf, unpack, viewOfAll } from "./points.js";
import { timeElement } from "./times.js";

const place = document.getElementById("now");
const number = new Intl.NumberFormat("en");

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** What a run did, or has done so far. */
function counts(summary) {
  const words = { embedded: "heard", tags_written: "tags written", undecided: "undecided", failed: "failed" };
  return Object.entries(words).filter(([key]) => summary[key]).map(([key, word]) => `${number.format(summary[key])} ${word}`).join(", ");
}

/** A run that goes on: how far it is, and when it will be done. */
function going(summary) {
  const { done = 0, total = 0, elapsed_s: elapsed = 0 } = summary;
  const rate = elapsed > 0 ? done / elapsed : 0;
  const rest = rate > 0 && total > done ? `, about ${duration((total - done) / rate)} left` : "";
  return [
    total ? `Scanning: ${number.format(done)} of ${number.format(total)} files, ${number.format(Math.round(60 * rate))} a minute${rest}` : "Comparing the folders with the library …",
    element("progress", { max: total || 1, value: total ? done : null, "aria-label": "Progress of the scan" }),
    counts(summary),
  ];
}

function show({ run, watch }) {
  const parts = [];
  const working = run?.state === "running";
  if (working) parts.push(...going(run.summary));
  else if (run) {
    const name = run.command === "watch" ? "change taken in" : run.command;
    const ended = { done: "", interrupted: ", interrupted: the next scan goes on", failed: ", failed" }[run.state] ?? `, ${run.state}`;
    const did = counts(run.summary);
    parts.push(`Last ${name} `, timeElement(run.finished_at ?? run.started_at), `${ended}${did ? ` (${did})` : ""}. `);
  } else parts.push("Nothing was scanned yet. ");
  if (watch) {
    parts.push(`indexer watch is ${watch.state}${watch.reason ? ` (${watch.reason})` : ""}.`);
    for (const root of watch.roots ?? []) for (const problem of root.problems) parts.push(element("span", { class: "ix-bad" }, ` ${problem}`));
  } else if (!working) parts.push("No indexer watch is running: the next scan finds new files.");
  const text = parts.map((part) => part.textContent ?? part).join("\n");
  if (place.dataset.shown !== text) {
    place.dataset.shown = text;
    place.replaceChildren(...parts);
  }
  return working || ["scanning", "working"].includes(watch?.state);
}

async function refresh() {
  let busy = false;
  try {
    const answer = await fetch(place.dataset.from);
    if (answer.ok) busy = show(await answer.json());
  } catch { /* the server is gone; the next request may reach it again */ }
  setTimeout(refresh, document.hidden ? 30_000 : busy ? 2000 : 10_000);
}
show(JSON.parse(place.dataset.now));
setTimeout(refresh, 2000);

const map = document.getElementById("map");
if (map) {
  const answer = await fetch(map.dataset.points);
  const points = answer.ok ? unpack(await answer.arrayBuffer()) : null;
  const draw = () => {
    if (!map.clientWidth) return;
    const ratio = window.devicePixelRatio || 1;
    [map.width, map.height] = [Math.round(map.clientWidth * ratio), Math.round(map.clientHeight * ratio)];
    paint(map.getContext("2d"), points, viewOfAll(points.box, map, 12 * ratio), sizeOf(points.ids.length, map), paintsOf(points.labels));
  };
  if (points) {
    new ResizeObserver(draw).observe(map);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }
}
