// Uploads files one after the other; each gets a panel with its progress, then its charts.
import { bars, clock, element, timeline } from "./charts.js";

const form = document.getElementById("drop");
const input = document.getElementById("files");
const results = document.getElementById("results");
const token = document.querySelector("meta[name=csrf-token]").content;
const RETRIES = 30; // while the server is busy with others
const maxMb = Number(form.dataset.maxMb);

const waiting = [];
let working = false;

function panel(file) {
  const progress = element("progress", { max: 1, value: 0, "aria-label": `Progress of ${file.name}` });
  // Screen readers announce the state when it changes, but not the numbers. The element stays, so that they announce the outcome too.
  const state = element("p", { role: "status" }, "waiting");
  const number = element("span", { class: "ix-soft" });
  const cancel = element("button", { type: "button", "aria-label": `Cancel ${file.name}` }, "Cancel");
  const body = element("div", {}, progress, element("p", { class: "ix-row" }, cancel, number));
  results.append(element("article", { class: "ix-panel" }, element("h2", {}, file.name), state, body));
  return { file, progress, state, number, cancel, body, settled: false };
}

/** Show what is being done, and its progress: a share from 0 to 1, or null when it is not known. */
function tell(job, doing, share, number) {
  if (job.state.textContent !== doing) job.state.textContent = doing;
  if (share === null) job.progress.removeAttribute("value");
  else job.progress.value = share;
  job.number.textContent = number ?? `${Math.round(100 * share)} %`;
}

function show(job, found) {
  const player = element("audio", { controls: true, src: URL.createObjectURL(job.file), "aria-label": job.file.name });
  player.addEventListener("error", () => player.remove());
  const sure = found.decided ? "" : ` – undecided: ${found.reason ?? `under the threshold of ${Math.round(100 * found.threshold)} %`}`;
  job.settled = true;
  job.state.replaceChildren(found.decided ? "" : "perhaps ", element("b", { class: "ix-genre" }, found.genre), `, ${Math.round(100 * found.confidence)} % sure${sure}`, found.second_genre ? ` (also ${found.second_genre})` : "");
  const parts = [bars(found.scores, found), player];
  if (found.damage) parts.unshift(element("p", {}, found.damage));
  if (found.timeline.length) {
    const figure = timeline(found.timeline, { labels: found.labels, duration_s: found.duration_s, onSeek: (seconds) => { player.currentTime = seconds; } });
    player.addEventListener("timeupdate", () => figure.place(player.currentTime));
    parts.push(figure);
  }
  const electronic = found.electronic === null ? "" : `, electronic: ${Math.round(100 * found.electronic)} %`;
  parts.push(element("p", { class: "ix-soft" }, `${clock(found.duration_s)}, heard by ${found.encoder}, ${found.head}${electronic}`));
  job.body.replaceChildren(...parts);
}

function fail(job, reason) {
  job.settled = true;
  job.state.textContent = reason;
  job.state.className = "ix-bad";
  job.body.replaceChildren();
}

/** One request; resolves with the milliseconds to wait before another try, or null when it is settled. */
function upload(job) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    const data = new FormData();
    data.append("file", job.file);
    let read = 0;
    const news = () => {
      const lines = request.responseText.slice(read).split("\n");
      read += request.responseText.slice(read).length - lines.at(-1).length;
      for (const line of lines.slice(0, -1).filter(Boolean)) {
        const message = JSON.parse(line);
        if ("progress" in message) {
          tell(job, "listening", message.progress, message.progress === null ? `${clock(message.heard_s)} heard` : undefined);
        } else if (message.result) show(job, message.result);
        else fail(job, message.error);
      }
    };
    request.upload.addEventListener("progress", (event) => {
      if (event.loaded === event.total) tell(job, "listening", null, "");
      else tell(job, "uploading", event.loaded / event.total);
    });
    request.addEventListener("progress", () => request.status === 200 && news());
    request.addEventListener("load", () => {
      if (request.status === 503) {
        resolve(1000 * Number(request.getResponseHeader("retry-after") ?? 10));
        return;
      }
      if (request.status === 200) news();
      else {
        let reason = `the server answered ${request.status}`;
        try { reason = JSON.parse(request.responseText).error; } catch { /* the answer is not from our server */ }
        fail(job, reason);
      }
      resolve(null);
    });
    request.addEventListener("error", () => { fail(job, "the upload broke off"); resolve(null); });
    request.addEventListener("abort", () => { fail(job, "cancelled"); resolve(null); });
    job.cancel.onclick = () => request.abort();
    request.open("POST", form.dataset.to);
    request.setRequestHeader("accept", "application/x-ndjson");
    request.setRequestHeader("x-csrftoken", token);
    request.send(data);
  });
}

async function work() {
  if (working) return;
  working = true;
  while (waiting.length) {
    const job = waiting.shift();
    for (let tries = 0; !job.settled; tries++) {
      const wait_ms = await upload(job);
      if (wait_ms === null) break;
      if (tries === RETRIES) { fail(job, "the server is busy; try again later"); break; }
      tell(job, "the server is busy; waiting", null, "");
      await new Promise((resolve) => {
        setTimeout(resolve, wait_ms);
        job.cancel.onclick = () => { fail(job, "cancelled"); resolve(); };
      });
    }
  }
  working = false;
}

function take(files) {
  for (const file of files) {
    const job = panel(file);
    job.cancel.onclick = () => fail(job, "cancelled");
    if (file.size > maxMb * 1024 * 1024) fail(job, `larger than ${maxMb} MB`);
    else waiting.push(job);
  }
  work();
}

input.addEventListener("change", () => { take(input.files); input.value = ""; });
form.addEventListener("submit", (event) => event.preventDefault());
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); form.classList.add("ix-over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) form.classList.remove("ix-over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  form.classList.remove("ix-over");
  const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
  const folders = new Set(items.filter((item) => item.webkitGetAsEntry?.()?.isDirectory).map((item) => item.getAsFile()?.name));
  for (const name of folders) fail(panel({ name }), "a folder: drop the files in it, or scan it into the library");
  take([...event.dataTransfer.files].filter((file) => !folders.has(file.name)));
});
