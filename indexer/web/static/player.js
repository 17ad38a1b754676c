// The player at the foot of every page. Its queue lives in this tab's sessionStorage, so that it goes on from page to page.
import { clock, element } from "./charts.js";

const KEPT = "indexer-player";
const place = document.getElementById("ix-player");
const audio = new Audio();
const state = { queue: [], at: 0, position_s: 0, playing: false }; // queue: [{id, title, artist}]
Object.assign(state, kept());

function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

function keep() {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(state));
  } catch { /* without storage, or with a full one, the queue ends with the page */ }
}

const button = (label, text, act) => {
  const made = element("button", { type: "button", "aria-label": label, title: label }, text);
  made.addEventListener("click", act);
  return made;
};
const toggleButton = button("Play", "▶", () => player.toggle());
const name = element("a", { class: "ix-player-name" });
const said = element("span", { role: "status", class: "ix-bad" });
const seek = element("input", { type: "range", min: 0, max: 1, step: "any", value: 0, "aria-label": "Position in the track" });
const time = element("span", { class: "ix-player-time" });
const list = element("ol", { class: "ix-player-queue", hidden: true, id: "ix-player-queue" });
const listButton = button("Queue", "☰", () => {
  list.hidden = !list.hidden;
  listButton.setAttribute("aria-expanded", String(!list.hidden));
  show();
});
listButton.setAttribute("aria-expanded", "false");
listButton.setAttribute("aria-controls", list.id);
place.append(list, element("div", { class: "ix-player-bar" },
  button("Previous track", "❙◀", () => player.previous()), toggleButton, button("Next track", "▶❙", () => player.next()),
  element("div", { class: "ix-player-what" }, name, said), seek, time, listButton, button("Close the player", "×", () => player.stop())));

/** What the player does. Each call changes the queue or the sound, and tells it with the event "ix-player" of the document. */
export const player = {
  /** {id, title, artist}, or undefined while nothing is in the queue. */
  get current() { return state.queue[state.at]; },
  get isPlaying() { return state.playing; },
  play(tracks, at = 0) {
    Object.assign(state, { queue: tracks, at, position_s: 0, playing: true });
    load();
  },
  add(tracks) {
    const wasEmpty = state.queue.length === 0;
    state.queue.push(...tracks);
    if (wasEmpty) load();
    else show();
  },
  toggle() {
    if (!this.current) return;
    state.playing = !state.playing;
    if (state.playing) start();
    else audio.pause();
    show();
  },
  next() { go(state.at + 1); },
  previous() {
    if (audio.currentTime > 3) audio.currentTime = 0;
    else go(state.at - 1);
  },
  seek(by_s) { audio.currentTime = Math.max(0, audio.currentTime + by_s); },
  stop() {
    Object.assign(state, { queue: [], at: 0, position_s: 0, playing: false });
    list.hidden = true;
    load();
  },
};

function go(at) {
  if (at < 0 || at >= state.queue.length) {
    state.playing = false;
    audio.pause();
    show();
    return;
  }
  Object.assign(state, { at, position_s: 0 });
  load();
}

/** Take the current track of the queue into the player. */
function load() {
  said.textContent = "";
  const track = player.current;
  if (!track) audio.removeAttribute("src");
  else audio.src = place.dataset.sound + track.id;
  audio.load();
  if (track && state.playing) start();
  show();
  if ("mediaSession" in navigator) navigator.mediaSession.metadata = track ? new MediaMetadata({ title: track.title, artist: track.artist }) : null;
}

function start() {
  for (const other of document.querySelectorAll("audio")) other.pause();
  audio.play().catch((error) => {
    if (error.name !== "NotAllowedError") return; // a file that cannot be played is told by its error event
    state.playing = false; // the browser wants a click first
    show();
  });
}

function show() {
  const track = player.current;
  place.hidden = !track;
  if (track) {
    name.textContent = [track.artist, track.title].filter(Boolean).join(" – ");
    name.href = place.dataset.tracks + track.id;
    toggleButton.textContent = state.playing ? "❚❚" : "▶";
    toggleButton.setAttribute("aria-label", state.playing ? "Pause" : "Play");
    list.replaceChildren(...(list.hidden ? [] : state.queue.map(entry)));
  }
  document.documentElement.style.setProperty("--ix-foot", `${place.offsetHeight}px`);
  keep();
  document.dispatchEvent(new Event("ix-player"));
}

function entry({ title, artist }, n) {
  const text = [artist, title].filter(Boolean).join(" – ");
  const chosen = button(`Play ${text}`, text, () => { state.playing = true; go(n); });
  const out = button(`Take ${text} out of the queue`, "×", () => {
    state.queue.splice(n, 1);
    if (n < state.at) state.at -= 1;
    if (n === state.at) go(Math.min(n, state.queue.length - 1));
    else show();
  });
  return element("li", { "aria-current": n === state.at ? "true" : null }, chosen, out);
}

audio.addEventListener("loadedmetadata", () => {
  if (state.position_s) audio.currentTime = state.position_s;
  seek.max = audio.duration || 1;
});
let kept_ms = 0;
audio.addEventListener("timeupdate", () => {
  if (!audio.currentTime) return; // a track that is being loaded is at 0, and the kept place is still to be gone to
  state.position_s = audio.currentTime;
  seek.value = audio.currentTime;
  time.textContent = Number.isFinite(audio.duration) ? `${clock(audio.currentTime)} / ${clock(audio.duration)}` : clock(audio.currentTime);
  if (performance.now() - kept_ms > 1000) {
    kept_ms = performance.now();
    keep();
  }
});
audio.addEventListener("ended", () => player.next());
audio.addEventListener("error", () => {
  if (!player.current) return;
  said.textContent = "This browser cannot play it.";
  if (state.playing && state.at + 1 < state.queue.length) setTimeout(() => { if (audio.error) player.next(); }, 1500);
  else player.isPlaying && player.toggle();
});
seek.addEventListener("input", () => { audio.currentTime = Number(seek.value); });
// A page's own player silences this one, and the other way round.
document.addEventListener("play", () => { if (state.playing) player.toggle(); }, { capture: true });
window.addEventListener("pagehide", keep);
if ("mediaSession" in navigator) {
  const acts = { play: () => player.toggle(), pause: () => player.toggle(), previoustrack: () => player.previous(), nexttrack: () => player.next() };
  for (const [action, act] of Object.entries(acts)) navigator.mediaSession.setActionHandler(action, act);
}
if (player.current) load();
