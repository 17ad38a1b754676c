// The track page: charts in place of the table of numbers, a timeline that moves the player, and similar tracks with a play button each.
import { bars, clock, element, timeline } from "./charts.js";

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
  player?.addEventListener("timeupdate", () => figure.place(player.currentTime));
}

const similar = document.getElementById("similar");
const other = new Audio(); // one at a time, beside the page's own player
document.body.append(other); // so that the player at the foot hears of it
let playing = null; // the button of the similar track that plays

function toggle(button, id) {
  if (playing === button) {
    other.pause();
    return;
  }
  player?.pause();
  other.src = similar.dataset.sound + id;
  other.play().catch(() => { button.textContent = "Cannot play"; });
  playing?.setAttribute("aria-pressed", "false");
  playing = button;
  button.setAttribute("aria-pressed", "true");
}
other.addEventListener("pause", () => { playing?.setAttribute("aria-pressed", "false"); playing = null; });
player?.addEventListener("play", () => other.pause());

function row(track) {
  const button = element("button", { type: "button", "aria-pressed": "false", "aria-label": `Play ${track.title || track.path}`, class: "ix-play" });
  button.addEventListener("click", () => toggle(button, track.id));
  const name = [track.artist, track.title].filter(Boolean).join(" – ") || track.path.split("/").at(-1);
  const genre = track.genre ? `${track.decided ? "" : "perhaps "}${track.genre} (${Math.round(100 * track.confidence)} %)` : "";
  return element("tr", {}, element("td", {}, button), element("td", {}, element("a", { href: similar.dataset.tracks + track.id }, name)),
    element("td", {}, genre), element("td", { class: "ix-number" }, track.duration_s ? clock(track.duration_s) : ""),
    element("td", { class: "ix-number", title: "centred cosine of the embeddings" }, track.similarity.toFixed(2)));
}

async function fillSimilar(wait_ms = 500) {
  const say = (text) => similar.replaceChildren(element("p", { class: "ix-soft" }, text));
  const answer = await fetch(similar.dataset.from);
  const found = await answer.json();
  if (answer.status === 202) {
    say("The library is being prepared for this, a moment …");
    setTimeout(fillSimilar, wait_ms, Math.min(2 * wait_ms, 8000));
  } else if (!answer.ok) say(found.error ?? "Not known for this track.");
  else if (!found.tracks.length) say("There is nothing else in the library yet.");
  else {
    const head = element("thead", {}, element("tr", {}, ...["", "track", "genre", "length", "similarity"].map((text) => element("th", { scope: "col" }, text || element("span", { class: "ix-hidden" }, "play")))));
    similar.replaceChildren(element("div", { class: "ix-scroll" }, element("table", { class: "ix-table" }, head, element("tbody", {}, ...found.tracks.map(row)))));
  }
}
fillSimilar().catch(() => similar.replaceChildren(element("p", { class: "ix-soft" }, "Could not be asked just now.")));
