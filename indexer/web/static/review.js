// One track after the other: play, press a number to label it, skip, undo. Tells the rest of the page by the events "labelled" and "asked-all".
import { bars, clock, element } from "./charts.js";

const at = (id) => document.getElementById(id);
const page = at("review");
const player = at("player");
const labels = JSON.parse(page.dataset.labels);
const token = document.querySelector("meta[name=csrf-token]").content;

let waiting = []; // tracks to ask about
let current = null;
let ended = false;
let total = null; // how many there were at first, in words
let queue = Promise.resolve();
const past = []; // {track, genre or null for skipped}
const number = new Intl.NumberFormat("en");
const SKIPPED = 1000; // recordings that a request names; earlier ones may come again

async function more() {
  const skip = past.slice(-SKIPPED).map(({ track }) => track.recording_id);
  const answer = await fetch(`${page.dataset.from}?what=${page.dataset.what}&skip=${skip}`);
  const { tracks, total: counted, exact, error } = await answer.json().catch(() => ({}));
  if (!answer.ok || !tracks) throw new Error(error ?? `the server answered ${answer.status}`);
  ended = tracks.length === 0;
  waiting.push(...tracks);
  if (total === null) total = counted === null ? "" : ` of ${exact ? "" : "about "}${number.format(counted)}`;
}

/** Say whether the browser plays this kind of file; where the browser only supposes so, an error of the player says it later. */
function silent(reason) {
  at("silent").hidden = !reason;
  at("silent").textContent = reason ?? "";
  player.hidden = Boolean(reason);
  for (const id of ["play", "later"]) at(id).disabled = Boolean(reason);
}
player.addEventListener("error", () => { if (current && player.getAttribute("src")) silent("This file cannot be played here: it is not there just now, or this browser does not know its sound."); });

function show(track) {
  current = track;
  at("card").hidden = !track;
  at("state").textContent = track ? "" : past.length ? "Nothing more to ask: all of these are answered or skipped." : at("state").dataset.empty ? "The library is empty: indexer scan FOLDER takes in your music." : "Nothing of this kind to ask about.";
  if (!track) {
    player.removeAttribute("src");
    player.load();
    document.dispatchEvent(new Event("asked-all"));
    return;
  }
  at("place").textContent = `${number.format(past.length + 1)}${total}`;
  at("name").textContent = track.name;
  at("name").href = page.dataset.tracks + track.id;
  const tag = track.tag_genre ? `the tag says ${track.tag_genre}` : "no genre in the tag";
  const model = track.genre ? `the model says ${track.decided ? "" : "perhaps "}${track.genre} (${Math.round(100 * track.confidence)} %)` : null;
  at("about").textContent = [track.album, track.duration_s && clock(track.duration_s), model, tag, track.reason].filter(Boolean).join(" · ");
  at("chart").replaceChildren(...(track.genre ? [bars(track.scores, { threshold: track.threshold, reason: track.reason, labels })] : []));
  const known = player.canPlayType(track.media_type) !== "";
  silent(known ? null : `This browser cannot play ${track.container ?? "such"} files; open it in a player, or skip it.`);
  if (!known) {
    player.removeAttribute("src");
    player.load();
    return;
  }
  const play = !player.paused || past.length > 0; // after the first answer, the next track plays by itself
  player.src = page.dataset.sound + track.id;
  if (play) player.play().catch(() => {});
}

async function next() {
  if (!waiting.length && !ended) await more();
  show(waiting.shift() ?? null);
  at("undo").disabled = past.length === 0;
  const said = past.filter(({ genre }) => genre).length;
  at("done").textContent = past.length ? `${said} labelled, ${past.length - said} skipped` : "";
}

async function post(id, genre, isNew = false) {
  const answer = await fetch(page.dataset.correct, { method: "POST", headers: { "content-type": "application/json", "x-csrftoken": token }, body: JSON.stringify({ id, genre, new: isNew }) });
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok || found.error) throw new Error(found.error ?? `the server answered ${answer.status}`);
  return found.genre;
}

/** Queue work behind earlier work, and show its error. */
function doing(work) {
  queue = queue.then(work).catch((error) => { at("state").textContent = `That did not work: ${error.message}`; });
}

/** Answer for the track that is shown now. A second press while the first is being sent does not count for the next track. */
function answer(genre) {
  const track = current;
  doing(async () => {
    if (!track || track !== current) return;
    if (genre) await post(track.id, genre);
    past.push({ track, genre });
    if (genre) document.dispatchEvent(new Event("labelled"));
    await next();
  });
}
const skip = () => answer(null);

/** A button for a genre. */
function addButton(genre) {
  if ([...at("answers").children].some((button) => button.dataset.genre === genre)) return;
  const place = at("answers").children.length + 1;
  const button = element("button", { type: "button", "data-genre": genre }, place <= 9 ? element("kbd", {}, String(place)) : null, ` ${genre}`);
  button.addEventListener("click", () => answer(genre));
  at("answers").append(button);
}

/** A genre that has no button: one that the library does not know is asked about once more, because it may be mistyped. */
let unknown = null;
function answerOther() {
  const genre = at("genre").value.trim();
  const track = current;
  doing(async () => {
    if (!track || track !== current || !genre) return;
    let label;
    try {
      label = await post(track.id, genre, unknown === genre);
    } catch (error) {
      unknown = genre;
      throw new Error(error.message.replace("--new makes it one", "once more “Say it” makes it one"), { cause: error });
    }
    unknown = null;
    at("genre").value = "";
    at("genre").blur();
    addButton(label);
    past.push({ track, genre: label });
    document.dispatchEvent(new Event("labelled"));
    await next();
  });
}

const undo = () => doing(async () => {
  const last = past.at(-1);
  if (!last) return;
  if (last.genre) await post(last.track.id, null);
  past.pop();
  if (last.genre) document.dispatchEvent(new Event("labelled"));
  if (current) waiting.unshift(current);
  waiting.unshift(last.track);
  await next();
  at("state").textContent = last.genre ? `“${last.genre}” is taken back.` : "";
});

const togglePlay = () => (player.paused ? player.play().catch(() => {}) : player.pause());
const later = () => { player.currentTime += 30; };

at("other").addEventListener("submit", (event) => { event.preventDefault(); answerOther(); });
for (const button of at("answers").children) button.addEventListener("click", () => answer(button.dataset.genre));
at("skip").addEventListener("click", skip);
at("undo").addEventListener("click", undo);
at("play").addEventListener("click", togglePlay);
at("later").addEventListener("click", later);
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input, select, textarea")) return;
  const button = /^[1-9]$/.test(event.key) ? at("answers").children[Number(event.key) - 1] : null;
  const onControl = event.target.matches("button, a, audio");
  if (button) answer(button.dataset.genre);
  else if (event.key === "s") skip();
  else if (event.key === "u") undo();
  else if (event.key === " " && !onControl && !at("play").disabled) togglePlay();
  else if (event.key === "ArrowRight" && !onControl) later();
  else return;
  event.preventDefault();
});
doing(next);
