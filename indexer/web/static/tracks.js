// The Tracks page: filters, pages and searches without leaving the page, so that the sound goes on; selecting, labelling, keys.
import { player } from "./player.js";

const at = (id) => document.getElementById(id);
const browser = at("browser");
const search = at("search").elements.q;
const token = document.querySelector("meta[name=csrf-token]").content;
const rows = () => [...(at("rows")?.children ?? [])];
const idOf = (row) => Number(row.dataset.id);
const selected = new Map(); // id -> track, also of other pages of the list
const said = []; // what was labelled, the newest last: {ids, genre}
let asked = 0; // counts requests, so that a late answer does not replace a newer one
let last = null; // the row whose box was clicked last

const trackOf = (row) => ({ id: idOf(row), title: row.querySelector(".ix-title").textContent, artist: row.querySelector(".ix-artist").textContent });
const say = (text) => { at("state").textContent = text; };

// ---- going on without leaving the page

async function show(address, { focus = null, typing = false } = {}) {
  const mine = ++asked;
  const open = new Set([...browser.querySelectorAll("details[open]")].map((one) => one.dataset.kind));
  browser.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(address, { headers: { accept: "text/html" } });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    const found = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (mine !== asked) return;
    browser.replaceChildren(...found.getElementById("browser").childNodes);
    at("kept").replaceChildren(...found.getElementById("kept").childNodes);
    if (!typing) search.value = found.getElementById("search").elements.q.value;
    for (const one of browser.querySelectorAll("details")) one.open = open.has(one.dataset.kind);
    if (focus) browser.querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
    say(at("found").textContent.split("·")[0].trim());
    mark();
  } catch (error) {
    if (mine === asked) say(`The list could not be loaded: ${error.message}`);
  } finally {
    if (mine === asked) browser.removeAttribute("aria-busy");
  }
}

async function go(address, options = {}) {
  history.replaceState({ scroll: window.scrollY }, "");
  history.pushState({}, "", address);
  await show(address, options);
  if (options.top) browser.scrollIntoView();
}

browser.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-key]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(link.href, { focus: link.dataset.key, top: link.dataset.key.startsWith("page ") });
});
browser.addEventListener("submit", (event) => {
  event.preventDefault();
  go(addressOf(event.target));
});
document.addEventListener("click", (event) => {
  for (const one of browser.querySelectorAll("details[open]")) if (event.target.isConnected && !one.contains(event.target)) one.open = false;
});
// The list is changed by scripts, so the place in it is kept by one.
history.scrollRestoration = "manual";
window.addEventListener("pagehide", () => history.replaceState({ ...history.state, scroll: window.scrollY }, ""));
if (history.state?.scroll) window.scrollTo(0, history.state.scroll);
window.addEventListener("popstate", async (event) => {
  await show(location.href);
  window.scrollTo(0, event.state?.scroll ?? 0);
});

function addressOf(form) {
  const values = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
  return `${location.pathname}?${values}`;
}
let typed = null;
search.addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(() => {
    const address = addressOf(at("search"));
    if (history.state?.typing) history.replaceState({ typing: true }, "", address);
    else {
      history.replaceState({ scroll: window.scrollY }, "");
      history.pushState({ typing: true }, "", address);
    }
    show(address, { typing: true });
  }, 200);
});
at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typed);
  go(addressOf(at("search")));
});

// ---- playing

function playRow(row) {
  if (player.current?.id === idOf(row)) {
    player.toggle();
    return;
  }
  const playable = rows().filter((one) => !one.querySelector(".ix-play").disabled);
  player.play(playable.map(trackOf), playable.indexOf(row));
}
browser.addEventListener("click", (event) => {
  const button = event.target.closest(".ix-play");
  if (button) playRow(button.closest("tr"));
});

/** Show in the rows which one plays and which are selected. */
function mark() {
  for (const row of rows()) {
    const isNow = player.current?.id === idOf(row);
    row.classList.toggle("ix-now", isNow);
    row.querySelector(".ix-play").setAttribute("aria-pressed", String(isNow && player.isPlaying));
    row.querySelector(".ix-pick input").checked = selected.has(idOf(row));
  }
  if (at("all")) at("all").checked = rows().length > 0 && rows().every((row) => selected.has(idOf(row)));
  at("chosen").hidden = selected.size === 0;
  at("many").textContent = `${selected.size.toLocaleString("en")} selected`;
  at("ids").value = [...selected.keys()].join(",");
  at("undo").hidden = said.length === 0;
}
document.addEventListener("ix-player", mark);

// ---- selecting and labelling

function pick(row, isPicked) {
  if (isPicked) selected.set(idOf(row), trackOf(row));
  else selected.delete(idOf(row));
}
browser.addEventListener("click", (event) => {
  const box = event.target.closest(".ix-pick input");
  if (!box) return;
  const all = rows();
  if (box.id === "all") for (const row of all) pick(row, box.checked);
  else {
    const row = box.closest("tr");
    const [from, to] = [all.indexOf(event.shiftKey && last ? last : row), all.indexOf(row)].sort((a, b) => a - b);
    for (const one of all.slice(Math.max(0, from), to + 1)) pick(one, box.checked);
    last = row;
  }
  mark();
});
function clear() {
  selected.clear();
  mark();
}

async function post(ids, genre, isNew = false) {
  const body = JSON.stringify({ ids, genre, new: isNew });
  const answer = await fetch(browser.dataset.correct, { method: "POST", headers: { "content-type": "application/json", "x-csrftoken": token }, body });
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok || found.error) throw new Error(found.error ?? `the server answered ${answer.status}`);
  return found.genre;
}
const tracks = (n) => (n === 1 ? "1 track" : `${n.toLocaleString("en")} tracks`);

let queue = Promise.resolve();
/** Do work behind earlier work, and show its error. */
function doing(work) {
  queue = queue.then(work).catch((error) => say(`That did not work: ${error.message}`));
}

let unknown = null; // a genre that the library does not know is asked about once more, because it may be mistyped
at("say").addEventListener("submit", (event) => {
  event.preventDefault();
  doing(async () => {
    const asked = at("genre").value.trim();
    const ids = [...selected.keys()];
    if (!asked || !ids.length) return;
    let genre;
    try {
      genre = await post(ids, asked, unknown === asked);
    } catch (error) {
      unknown = asked;
      throw new Error(error.message.replace("--new makes it one", "once more “Say it” makes it one"), { cause: error });
    }
    unknown = null;
    at("genre").value = "";
    at("genre").blur();
    said.push({ ids, genre });
    selected.clear();
    await show(location.href);
    say(`${tracks(ids.length)} labelled ${genre}.`);
  });
});
const undo = () => doing(async () => {
  const newest = said.at(-1);
  if (!newest) return;
  await post(newest.ids, null);
  said.pop();
  await show(location.href);
  say(`“${newest.genre}” is taken back from ${tracks(newest.ids.length)}.`);
});
at("undo").addEventListener("click", undo);
at("clear").addEventListener("click", clear);
at("play").addEventListener("click", () => player.play([...selected.values()]));
at("queue").addEventListener("click", () => {
  player.add([...selected.values()]);
  say(`${tracks(selected.size)} added to the queue.`);
  clear();
});

// ---- keys

function step(by) {
  const all = rows();
  const here = all.indexOf(document.activeElement.closest?.("tr"));
  const row = all[Math.min(all.length - 1, Math.max(0, here < 0 ? 0 : here + by))];
  row?.querySelector(".ix-play:enabled, .ix-title").focus();
  row?.scrollIntoView({ block: "nearest" });
}

const keys = {
  " ": () => (player.current ? player.toggle() : rows().length && playRow(document.activeElement.closest?.("#rows tr") ?? rows()[0])),
  n: () => player.next(),
  p: () => player.previous(),
  ArrowRight: () => player.seek(10),
  ArrowLeft: () => player.seek(-10),
  ArrowDown: () => step(1),
  ArrowUp: () => step(-1),
  x: () => { const row = document.activeElement.closest("#rows tr"); if (row) { pick(row, !selected.has(idOf(row))); mark(); } },
  l: () => { if (selected.size) at("genre").focus(); },
  u: undo,
  "/": () => { search.focus(); search.select(); },
  "?": () => at("help").showModal(),
  Escape: () => {
    const open = browser.querySelector("details[open]");
    if (!open) clear();
    else {
      open.open = false;
      open.querySelector("summary").focus();
    }
  },
};
document.addEventListener("keydown", (event) => {
  const on = event.target;
  if (event.ctrlKey || event.altKey || event.metaKey || at("help").open || !(event.key in keys)) return;
  const isText = on.matches("input:not([type=checkbox]), select, textarea");
  if (isText && event.key !== "Escape") return;
  if (event.key === " " && on.matches("button, input, summary")) return; // they do what they say
  if (event.key === "Escape" && on === search) search.blur();
  event.preventDefault();
  keys[event.key]();
});
mark();
