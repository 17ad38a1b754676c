// "Train now": begins a training, follows it (also one that another page began), shows its figures and offers to write the genres.
import { element } from "./charts.js";

const at = (id) => document.getElementById(id);
const panel = at("training");
const token = document.querySelector("meta[name=csrf-token]").content;
const number = new Intl.NumberFormat("en");
const percent = (share) => (share === null ? "not known" : `${Math.round(100 * share)} %`);
const many = (n, noun) => `${number.format(n)} ${noun}${n === 1 ? "" : "s"}`;
const RUNNING_MS = 1000, IDLE_MS = 5000, HIDDEN_MS = 30_000;

let timer = 0;
let shown = ""; // what the figures and the offer were made from
let askedAll = false;
let again = 0; // refreshes that follow soon after a label, because the server may answer with a count that it keeps

async function post(order) {
  const answer = await fetch(panel.dataset.to, { method: "POST", headers: { "content-type": "application/json", "x-csrftoken": token }, body: JSON.stringify({ do: order }) });
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok && answer.status !== 409) throw new Error(found.error ?? `the server answered ${answer.status}`);
}

function order(name) {
  return async () => {
    await post(name).catch((error) => { at("training-state").textContent = `That did not work: ${error.message}`; });
    await refresh();
  };
}

/** Which labels there are, and what is missing to learn from them. */
function tellLabels({ labels, needed, head, since }) {
  const all = Object.entries(labels);
  const enough = all.filter(([, n]) => n >= needed);
  const counts = all.slice(0, 12).map(([label, n]) => `${label} ${number.format(n)}`).join(", ") + (all.length > 12 ? ` and ${all.length - 12} more` : "");
  const lacking = all.filter(([, n]) => n < needed).slice(0, 5).map(([label, n]) => `${needed - n} more of ${label}`);
  const news = since ? ` You labelled ${many(since, "track")} since ${head.name} learned.` : "";
  let text = `Labels so far: ${counts || "none"}.`;
  if (enough.length < 2) text += ` A head, which turns what was heard into a genre, needs ${needed} tracks of each of two genres${lacking.length ? `: ${lacking.join(", ")}` : ""}.`;
  else if (lacking.length) text += ` To be learned too, a genre needs ${needed}: ${lacking.join(", ")}.`;
  at("labels").textContent = text + news;
  return enough.length >= 2;
}

/** How far the job is, or how it ended, in one line. */
function stateOf(job, ready, watched, write_tags) {
  if (!job) {
    if (!ready) return "";
    const watch = watched && write_tags !== "off" ? " indexer watch is running: with its next scan it writes what is decided, without asking." : "";
    return `${askedAll ? "All are asked. " : ""}Training opens no file and writes none.${watch}`;
  }
  if (job.state === "running") {
    if (job.cancelling) return "Cancelling …";
    if (job.step === "waiting") return `Waiting: ${job.reason}`;
    const done = job.total ? ` ${number.format(job.done)} of ${number.format(job.total)}` : job.done ? ` ${number.format(job.done)}` : "";
    return `${job.step[0].toUpperCase()}${job.step.slice(1)}${done} …`;
  }
  if (job.error) return job.error;
  if (job.state === "done" && job.do === "look") return job.preview ? "" : "The library has changed since.";
  if (job.state === "cancelled") {
    if (job.do === "look") return "Cancelled.";
    if (job.do === "write") return "Cancelled: what is written stays, and the next scan goes on.";
    return job.learned ? "Cancelled: the new head is in use, and the next scan classifies the rest with it." : "Cancelled: nothing has changed.";
  }
  if (job.do === "write") {
    const { tags_written, not_written, failed } = job.written;
    const rest = [not_written ? `${number.format(not_written)} could not be written (read-only, or a full disk)` : "", failed ? `${many(failed, "file")} failed` : ""].filter(Boolean).join(", ");
    return `${many(tags_written, "genre")} written${rest ? `; ${rest}` : ""}.${tags_written ? ` To take them back: indexer tags undo --since ${job.began_at}` : ""}`;
  }
  if (job.applied.head !== job.learned.head) return `Done: “${job.learned.head}” was learned, but the setting head names another, “${job.applied.head}”; remove the setting to use it.`;
  return `Done: the head “${job.learned.head}” is in use. ${number.format(job.applied.classified - job.applied.undecided)} of ${many(job.applied.classified, "recording")} decided.`;
}

/** What the head in use knows, measured on music it did not learn from. */
function figures({ name, trained_on, metrics, honest }, job) {
  const { accuracy, accuracy_95: [low, high], recordings, artists, coverage, precision_decided, threshold, labels } = metrics;
  const commonest = Math.max(...Object.values(labels).map((label) => label.recordings)) / recordings;
  const better = low > commonest ? "" : " So it is not shown to be better than guessing: label more before you trust it.";
  const rows = Object.entries(labels).map(([label, m]) => element("tr", {}, element("th", { scope: "row" }, label), ...[number.format(m.recordings), percent(m.recall), percent(m.precision)].map((text) => element("td", { class: "ix-number" }, text))));
  const compared = job?.learned?.compared ?? [];
  const encoders = compared.length > 1 ? [element("p", {}, `Compared on the same tracks: ${compared.map(({ encoder, accuracy: right }) => `${encoder} ${percent(right)}`).join(", ")}; the one whose confidence fitted best is in use.`)] : [];
  const notes = (job?.learned?.notes ?? []).map((note) => element("p", {}, `Note: ${note}.`));
  return [
    element("h3", {}, `How good “${name}” is`),
    element("ul", { class: "ix-figures" }, ...[[accuracy, "right"], [commonest, "by always guessing the commonest"], [coverage, "sure enough"], [precision_decided, "of those right"]].map(([share, what]) => element("li", {}, element("b", {}, percent(share)), ` ${what}`))),
    element("p", {}, `Measured on ${many(recordings, "track")} of ${many(artists, "artist")}, each judged without having learned from its artist: with 95 % certainty between ${percent(low)} and ${percent(high)} are right. A genre counts as decided from ${percent(threshold)} on.${better}`),
    element("table", { class: "ix-table" }, element("thead", {}, element("tr", {}, ...["genre", "tracks", "of these found", "right where it says so"].map((text, n) => element("th", { scope: "col", class: n ? "ix-right" : null }, text)))), element("tbody", {}, ...rows)),
    ...encoders, ...notes,
    element("p", { class: "ix-soft" }, `Learned from ${trained_on}. ${honest}`),
  ];
}

/** What a scan would write, and the button that has it done. */
function offer({ preview }, watched) {
  const next = element("p", {}, element("a", { href: panel.dataset.review }, "Look at what is still without a genre"));
  if (!preview.tag_writes) return [element("p", {}, "Nothing is to be written: each file has its genre already, or none is decided."), next];
  const button = element("button", { type: "button", class: "ix-primary" }, `Write the genre into ${many(preview.tag_writes, "file")}`);
  button.addEventListener("click", order("write"));
  const rows = preview.writes.map(({ path, before, after, confidence, adds }) => element("tr", {}, element("td", { title: path }, path.split("/").slice(-2).join(" / ")), element("td", {}, before.join("; ") || "–"), element("td", {}, [...after, ...Object.values(adds ?? {})].join("; ")), element("td", { class: "ix-number" }, confidence === null ? "" : percent(confidence))));
  const table = element("table", { class: "ix-table" }, element("thead", {}, element("tr", {}, ...["file", "genre now", "genre then", "sure"].map((text) => element("th", { scope: "col" }, text)))), element("tbody", {}, ...rows));
  const more = preview.tag_writes > rows.length ? [element("p", { class: "ix-soft" }, `and ${number.format(preview.tag_writes - rows.length)} more`)] : [];
  const news = preview.new + preview.changed ? ` It is a scan: ${many(preview.new + preview.changed, "new or changed file")} would be taken in too.` : "";
  return [
    element("h3", {}, "Into the files?"),
    element("p", {}, `Nothing is written yet. The genre would go into the tags of ${many(preview.tag_writes, "file")}; each can be taken back.${news}${watched ? " indexer watch is running: without this, its next scan does it." : ""}`),
    element("details", {}, element("summary", {}, "What would be written"), element("div", { class: "ix-list", tabindex: 0, role: "region", "aria-label": "What would be written" }, table), ...more),
    element("p", {}, button), next,
  ];
}

function show(found) {
  const { job, head, watched, write_tags } = found;
  const running = job?.state === "running";
  const ready = tellLabels(found);
  const state = stateOf(job, ready, watched, write_tags);
  if (at("training-state").textContent !== state) at("training-state").textContent = state;
  at("training-state").className = job?.error ? "ix-bad" : "";
  at("training-progress").hidden = !running;
  if (job?.total) at("training-progress").value = job.done / job.total;
  else at("training-progress").removeAttribute("value");
  const focused = panel.contains(document.activeElement) ? document.activeElement : null;
  at("cancel").hidden = !running;
  at("train").hidden = running || !ready;
  at("train").textContent = head?.metrics ? "Train again" : "Train now";
  const worth = ready && !running && Boolean(!head?.metrics || found.since); // there is something new to learn
  at("train").className = worth ? "ix-primary" : "";
  at("ready").hidden = !worth;
  const offers = !running && job?.state === "done" && job.do !== "write" && job.preview && write_tags !== "off";
  at("look").hidden = running || offers || !head || write_tags === "off";
  const basis = JSON.stringify([running, head, job, write_tags, watched]);
  if (running || basis !== shown) fill(found, running, offers);
  shown = basis;
  if (focused && (focused.hidden || !focused.isConnected)) (running ? at("cancel") : at("train").hidden ? at("look") : at("train")).focus();
  return running;
}

/** The figures and the offer. */
function fill({ job, head, watched, write_tags }, running, offers) {
  at("figures").hidden = running || !head?.metrics;
  at("figures").replaceChildren(...(at("figures").hidden ? [] : figures(head, job)));
  const off = write_tags === "off" && job?.do === "train" && job.state === "done";
  at("offer").hidden = !offers && !off;
  at("offer").replaceChildren(...(offers ? offer(job, watched) : off ? [element("p", {}, "Nothing is written into files: the setting write_tags is off.")] : []));
}

async function refresh() {
  clearTimeout(timer);
  let running = false;
  try {
    const answer = await fetch(panel.dataset.from);
    if (answer.ok) running = show(await answer.json());
    else at("training-state").textContent = (await answer.json().catch(() => ({}))).error ?? `The server answered ${answer.status}.`;
  } catch { /* the server is gone; the next request may reach it again */ }
  clearTimeout(timer);
  timer = setTimeout(refresh, document.hidden ? HIDDEN_MS : running || again-- > 0 ? RUNNING_MS : IDLE_MS);
}

at("train").addEventListener("click", order("train"));
at("look").addEventListener("click", order("look"));
at("cancel").addEventListener("click", order("cancel"));
document.addEventListener("labelled", () => { again = 2; refresh(); });
document.addEventListener("visibilitychange", refresh);
document.addEventListener("asked-all", () => { askedAll = true; panel.scrollIntoView({ block: "nearest" }); refresh(); });
refresh();
