// The home page: the bars of the genres, and the state of the scan, requested again every few seconds.
import { colour, element } from "./charts.js";

const genres = document.getElementById("genres");
for (const [n, row] of [...(genres?.children ?? [])].entries()) {
  const most = Math.max(1, Number(genres.dataset.most));
  const [sure, faint] = row.querySelectorAll(".ix-fill");
  sure.style.setProperty("--share", row.dataset.decided / most);
  faint.style.setProperty("--share", (Number(row.dataset.decided) + Number(row.dataset.undecided)) / most);
  row.style.setProperty("--colour", colour(n));
}

const place = document.getElementById("now");
const number = new Intl.NumberFormat("en");

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** What a run did, or has done so far. */
function counts(summary) {
  const words = { embedded: "embedded", tags_written: "genres written", undecided: "undecided", failed: "failed" };
  return Object.entries(words).filter(([key]) => summary[key]).map(([key, word]) => `${number.format(summary[key])} ${word}`).join(", ");
}

function show({ run, watch }) {
  const parts = [];
  const working = run?.state === "running";
  if (working) {
    const { done = 0, total = 0, elapsed_s: elapsed = 0 } = run.summary;
    const rate = elapsed > 0 ? done / elapsed : 0;
    const rest = rate > 0 && total > done ? `, about ${duration((total - done) / rate)} left` : "";
    parts.push(element("p", {}, total ? `Scanning: ${number.format(done)} of ${number.format(total)} files, ${number.format(Math.round(60 * rate))} a minute${rest}` : "Comparing the folders with the library …"));
    parts.push(element("progress", { max: total || 1, value: total ? done : null, "aria-label": "Progress of the scan" }));
    if (counts(run.summary)) parts.push(element("p", { class: "ix-soft" }, counts(run.summary)));
  } else if (run) {
    const name = run.command === "watch" ? "change taken in" : run.command;
    const goesOn = run.state === "interrupted" ? "; the next scan goes on" : "";
    parts.push(element("p", {}, `Last ${name}: ${run.state}, ${new Date(run.finished_at ?? run.started_at).toLocaleString()}${goesOn}. ${counts(run.summary)}`));
  } else parts.push(element("p", {}, "Nothing was scanned yet."));
  if (watch) {
    parts.push(element("p", { class: "ix-soft" }, `indexer watch is ${watch.state}${watch.reason ? ` (${watch.reason})` : ""}.`));
    for (const root of watch.roots ?? []) for (const problem of root.problems) parts.push(element("p", { class: "ix-bad" }, problem));
  } else if (!working) parts.push(element("p", { class: "ix-soft" }, "No indexer watch is running: new files are found by the next scan."));
  const text = parts.map((part) => part.textContent).join("\n");
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
