// The two charts of a recording: confidence in every genre, and the genres along the track. All data is inserted as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 8; // --ix-g0 to --ix-g7 in indexer.css

/** The colour of the label with this place in the head's list. */
export function colour(index) {
  return `var(--ix-g${index % COLOURS})`;
}

/** Seconds as text: 4:05 or 1:02:09. */
export function clock(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const parts = s >= 3600 ? [Math.floor(s / 3600), Math.floor(s / 60) % 60, s % 60] : [Math.floor(s / 60), s % 60];
  return parts.map((part, n) => (n ? String(part).padStart(2, "0") : part)).join(":");
}

/** An element with attributes and children; strings become text nodes. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/**
 * Confidence in every genre as a list of bars, the most probable first.
 * scores: {label: 0 to 1}; threshold: from which a genre counts as decided; labels: the head's, in its order (it gives the colours);
 * reason: why none is decided, whatever the threshold, which is not shown then.
 */
export function bars(scores, { threshold, labels, reason }) {
  const list = element("ul", { class: "ix-bars", "aria-label": "Confidence in every genre" });
  if (!reason) list.style.setProperty("--threshold", threshold);
  const sorted = [...labels].sort((a, b) => scores[b] - scores[a]);
  for (const label of sorted) {
    const share = scores[label];
    const reaches = reason ? "" : `, ${share >= threshold ? "reaches" : "is under"} the threshold of ${Math.round(100 * threshold)} %`;
    const exact = `${(100 * share).toFixed(2)} %`;
    const row = element("li", {
      tabindex: 0, class: label === sorted[0] ? "ix-winner" : null, title: `${label}: ${exact}${reaches}`,
    },
      element("span", { class: "ix-label" }, label),
      element("span", { class: "ix-track" }, element("span", { class: "ix-fill" }), reason ? "" : element("span", { class: "ix-line" })),
      element("span", { class: "ix-value" }, element("span", { class: "ix-short" }, `${Math.round(100 * share)} %`), element("span", { class: "ix-exact" }, exact)));
    row.style.setProperty("--share", share);
    row.style.setProperty("--colour", colour(labels.indexOf(label)));
    list.append(row);
  }
  const all = element("div", {}, list);
  if (!reason) all.append(element("p", { class: "ix-soft" }, `The dashed line is the threshold: from ${Math.round(100 * threshold)} % a genre counts as decided.`));
  return all;
}

/** The most probable label of a segment. */
function winner(scores, labels) {
  return labels.reduce((best, label) => (scores[label] > scores[best] ? label : best), labels[0]);
}

/** How far a share stands above chance among so many labels, from 0 to 1: near-equal shares are pale. */
function certainty(share, count) {
  const chance = 1 / count;
  return count < 2 ? 1 : Math.min(1, Math.max(0, (share - chance) / (1 - chance)));
}

/** The timeline in words: which genre from when to when. */
function summary(segments, labels, endOf) {
  const parts = [];
  for (const [n, { start_s, scores }] of segments.entries()) {
    const label = winner(scores, labels);
    const last = parts.at(-1);
    if (last?.label === label) last.end_s = endOf(n);
    else parts.push({ label, start_s, end_s: endOf(n) });
  }
  const shown = parts.slice(0, 12).map((p) => `${p.label} from ${clock(p.start_s)} to ${clock(p.end_s)}`);
  return shown.join("; ") + (parts.length > shown.length ? `; and ${parts.length - shown.length} more changes` : "");
}

/**
 * Genres along the track: the most probable of each segment in its colour, the paler the less certain, with a legend.
 * segments: [{start_s, scores}]; onSeek(seconds), when given, makes it a slider. The result has a method place(seconds) that moves the line.
 */
export function timeline(segments, { labels, duration_s, onSeek }) {
  const figure = element("figure", { class: "ix-figure" });
  const length_s = Math.max(duration_s || 0, (segments.at(-1)?.start_s ?? 0) + 0.1);
  const endOf = (n) => (n + 1 < segments.length ? segments[n + 1].start_s : length_s);
  const svg = shape("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", class: "ix-timeline" });
  for (const [n, { start_s, scores }] of segments.entries()) {
    const x = (1000 * start_s) / length_s;
    const width = (1000 * (endOf(n) - start_s)) / length_s;
    const label = winner(scores, labels);
    const column = shape("rect", { x, y: 0, width: width + 0.3, height: 100 });
    column.style.fill = colour(labels.indexOf(label));
    column.style.fillOpacity = 0.12 + 0.88 * certainty(scores[label], labels.length);
    svg.append(column);
  }
  const line = shape("line", { x1: 0, x2: 0, y1: 0, y2: 100, "vector-effect": "non-scaling-stroke" });
  line.classList.add("ix-playhead");
  svg.append(line);
  let at_s = 0;
  const at = (seconds) => segments.findLast(({ start_s }) => start_s <= seconds) ?? segments[0];
  const inWords = (seconds) => {
    const { scores } = at(seconds);
    const label = winner(scores, labels);
    return `${clock(seconds)}, ${label} ${Math.round(100 * scores[label])} %`;
  };
  const caption = element("figcaption", { class: "ix-soft" }, onSeek ? "Click or use the arrow keys to go to a place in the track." : "");
  figure.place = (seconds) => {
    at_s = Math.min(Math.max(0, seconds), length_s);
    const x = (1000 * at_s) / length_s;
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
    if (onSeek) {
      svg.setAttribute("aria-valuenow", Math.round(at_s));
      svg.setAttribute("aria-valuetext", inWords(at_s));
    }
  };
  const toSeconds = (event) => {
    const box = svg.getBoundingClientRect();
    return ((event.clientX - box.left) / box.width) * length_s;
  };
  svg.addEventListener("pointermove", (event) => { caption.textContent = inWords(toSeconds(event)); });
  if (onSeek) {
    for (const [key, value] of Object.entries({ role: "slider", tabindex: 0, "aria-label": "Position in the track", "aria-valuemin": 0, "aria-valuemax": Math.round(length_s) })) svg.setAttribute(key, value);
    const go = (seconds) => { figure.place(seconds); onSeek(at_s); };
    svg.addEventListener("click", (event) => go(toSeconds(event)));
    svg.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 5, ArrowLeft: -5, ArrowUp: 30, ArrowDown: -30, Home: -length_s, End: length_s };
      if (event.key in steps) {
        event.preventDefault();
        go(at_s + steps[event.key]);
      }
    });
  } else {
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `Genres along the track: ${summary(segments, labels, endOf)}`);
  }
  figure.append(svg, caption, legend(labels), element("p", { class: "ix-hidden" }, summary(segments, labels, endOf)));
  figure.place(0);
  return figure;
}

/** A legend: the colour of each genre. */
export function legend(labels) {
  const list = element("ul", { class: "ix-legend" });
  for (const [n, label] of labels.entries()) {
    const square = element("i", { "aria-hidden": "true" });
    square.style.setProperty("--colour", colour(n));
    list.append(element("li", {}, square, label));
  }
  return list;
}
