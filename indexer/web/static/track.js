// The track page: charts in place of the table of numbers, a timeline that is the player's bar, and similar tracks.
import { bars, clock, element, timeline } from "./charts.js";
import { player as foot } from "./player.js";

const chart = JSON.parse(document.getElementById("chart").textContent);
const player = document.getElementById("player");

const barsPlace = document.getElementById("bars");
if (barsPlace) barsPlace.replaceChildren(bars(chart.scores, chart));

if (player) {
  player.addEventListener("error", () => { document.getElementById("silent").hidden = false; });
  if (player.error) document.getElementById("silent").hidden = false;
}

if (chart.timeline.length) {
  const figure = timeline(chart.timeline, {
    labels: chart.labels,
    duration_s: chart.duration_s,
    onSeek: player ? (seconds) => { player.currentTime = seconds; } : undefined,
  });
  document.getElementById("timeline").append(figure);
  if (player) scrub(figure);
}

/** The timeline in place of the player's own bar: a button, the time, and one axis for both. */
function scrub(figure) {
  const button = element("button", { type: "button", class: "ix-play", "aria-pressed": "false", "aria-label": "Play" });
  const time = element("span", { class: "ix-soft" });
  const show = () => {
    figure.place(player.currentTime);
    time.textContent = `${clock(player.currentTime)} / ${clock(player.duration || chart.duration_s || 0)}`;
    button.setAttribute("aria-pressed", String(!player.paused));
    button.setAttribute("aria-label", player.paused ? "Play" : "Pause");
  };
  button.addEventListener("click", () => (player.paused ? player.play().catch(() => {}) : player.pause()));
  for (const name of ["timeupdate", "play", "pause", "loadedmetadata", "ended"]) player.addEventListener(name, show);
  player.controls = false;
  figure.before(element("div", { class: "ix-row" }, button, time));
  show();
}

// A label is said without leaving the page, so that Back leads where one came from.
document.getElementById("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = document.querySelector("meta[name=csrf-token]").content;
  const id = Number(event.target.elements.id.value);
  const answer = await fetch(event.target.action, { method: "POST", headers: { "content-type": "application/json", "x-csrftoken": token }, body: JSON.stringify({ id, genre: event.submitter.value || null }) });
  if (answer.ok) location.reload();
  else document.getElementById("said").textContent = (await answer.json().catch(() => ({}))).error ?? `The server answered ${answer.status}.`;
});

const places = { similar: document.getElementById("similar"), mix: document.getElementById("mix") };
const ALIKE = [[0.75, "very much alike"], [0.5, "alike"], [0.25, "a little alike"]]; // from which similarity (centred cosine) on; "Sounds like" shows nothing below

const nameOf = (track) => [track.artist, track.title].filter(Boolean).join(" – ") || track.path.split("/").at(-1);

/** The tracks, those of one name and length once: [{track, files}]. */
function merged(tracks) {
  const found = new Map();
  for (const track of tracks) {
    const key = track.title && track.artist ? `${nameOf(track).toLowerCase()} ${Math.round((track.duration_s ?? 0) / 3)}` : track.id;
    if (found.has(key)) found.get(key).files += 1;
    else found.set(key, { track, files: 1 });
  }
  return [...found.values()];
}

const number = (text) => element("td", { class: "ix-number" }, text);

/** The cells that every list begins with: a button that plays the track, its name, genre, tempo and key. */
function beginning(place, { track, files }, n, all) {
  const button = element("button", { type: "button", "aria-pressed": "false", "aria-label": `Play ${track.title || track.path}`, class: "ix-play", "data-id": track.id });
  button.addEventListener("click", () => {
    if (foot.current?.id === track.id) foot.toggle();
    else foot.play(all.map(({ track: { id, title, artist, path } }) => ({ id, title: title || path.split("/").at(-1), artist })), n);
  });
  const genre = track.label ?? (track.genre ? `perhaps ${track.genre}` : "");
  const bpm = track.tempo_bpm ?? track.tag_bpm;
  return [element("td", {}, button),
    element("td", {}, element("a", { href: place.dataset.tracks + track.id }, nameOf(track)), files > 1 ? element("span", { class: "ix-soft" }, ` in ${files} files`) : ""),
    element("td", {}, genre), number(bpm ? Math.round(bpm) : ""), element("td", {}, track.key ?? track.tag_key ?? "")];
}

function alikeRow(entry, n, all) {
  const { track } = entry;
  const [, words] = ALIKE.find(([from]) => track.similarity >= from);
  const bar = element("meter", { min: 0, max: 1, value: track.similarity, "aria-label": words, title: words });
  return element("tr", {}, ...beginning(places.similar, entry, n, all), number(track.duration_s ? clock(track.duration_s) : ""), element("td", {}, bar));
}

function mixRow(entry, n, all) {
  const { key, tempo, sound } = entry.track.reasons;
  return element("tr", {}, ...beginning(places.mix, entry, n, all), ...[key, tempo, sound].map((why) => element("td", {}, why ?? "")));
}

function table(heads, rows) {
  const head = element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col", class: ["BPM", "length"].includes(text) ? "ix-number" : null }, text || element("span", { class: "ix-hidden" }, "play")))));
  return element("div", { class: "ix-scroll" }, element("table", { class: "ix-table ix-similar" }, head, element("tbody", {}, ...rows)));
}

const soft = (text) => element("p", { class: "ix-soft" }, text);

function alike({ tracks }) {
  if (!tracks.length) return [soft("There is nothing else in the library yet.")];
  const all = merged(tracks.filter(({ similarity }) => similarity >= ALIKE.at(-1)[0]));
  if (!all.length) return [soft("Nothing in the library is much like it.")];
  return [table(["", "track", "genre", "BPM", "key", "length", "how alike"], all.map(alikeRow))];
}

function mixing({ tracks, mix }) {
  const said = mix.missing.map((text) => soft(`This track has ${text}.`));
  if (mix.unknown) said.push(soft(`${mix.unknown.toLocaleString("en")} passed over: their tempo or key is not known.`));
  if (!tracks.length) return [soft(mix.key || mix.tempo_bpm ? "Nothing in the library suits both its key and its tempo." : "Without a tempo and a key nothing can be compared."), ...said];
  const all = merged(tracks);
  return [table(["", "track", "genre", "BPM", "key", "by key", "by tempo", "by sound"], all.map(mixRow)), ...said];
}

document.addEventListener("ix-player", () => {
  for (const button of document.querySelectorAll(".ix-similar .ix-play")) button.setAttribute("aria-pressed", String(foot.isPlaying && foot.current?.id === Number(button.dataset.id)));
});

async function fill(place, drawn, wait_ms = 500) {
  try {
    const answer = await fetch(place.dataset.from);
    const found = await answer.json();
    if (answer.status === 202) {
      place.replaceChildren(soft("The library is being prepared for this, a moment …"));
      setTimeout(fill, wait_ms, place, drawn, Math.min(2 * wait_ms, 8000));
    } else place.replaceChildren(...(answer.ok ? drawn(found) : [soft(found.error ?? "Not known for this track.")]));
  } catch {
    place.replaceChildren(soft("Could not be asked just now."));
  }
}
fill(places.similar, alike);
fill(places.mix, mixing);
