// Times for people: "today 10:44" in the browser's own time zone, exact on hover.

/** A time of the library (ISO 8601) in words. */
export function inWords(iso, now = new Date()) {
  const then = new Date(iso);
  const days = Math.round((new Date(now).setHours(0, 0, 0, 0) - new Date(then).setHours(0, 0, 0, 0)) / 86_400_000);
  const clock = then.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  if (days === 0) return `today ${clock}`;
  if (days === 1) return `yesterday ${clock}`;
  return then.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: then.getFullYear() === now.getFullYear() ? undefined : "numeric" });
}

/** A time element in words. */
export function timeElement(iso) {
  const made = document.createElement("time");
  made.dateTime = iso;
  made.title = new Date(iso).toLocaleString();
  made.textContent = inWords(iso);
  return made;
}

for (const found of document.querySelectorAll("time[datetime]")) found.replaceWith(timeElement(found.dateTime));
