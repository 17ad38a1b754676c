"""`indexer doctor FILES`: reports which genre each program reads, tags that contradict each other, and refused writes.

Turns the facts that a child process gathers (indexer.files.children.examine) into reports and text. Opens no music
file, never writes, and needs no library.
"""

import os
import queue
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from indexer.config import Settings
from indexer.errors import FileError
from indexer.files.children.limits import Limits
from indexer.files.children.worker import Worker
from indexer.files.tags.read import Tags, clean
from indexer.files.walk import folders_to_scan, walk
from indexer.wording import printable

VERDICTS = ("writable", "refused", "unsupported", "truncated", "unreadable")
FAILING = ("refused", "truncated", "unreadable")  # not "unsupported": such a file is whole
CHUNK = 1000  # files handed to the workers at once
USUAL = "where DJ programs and players look"
# (container, kind of tag) -> which programs read it, where that is known
READ_BY = {
    ("mp3", "id3"): USUAL,
    ("aiff", "id3"): USUAL,
    ("wav", "id3"): "read by most programs, not by rekordbox",
    ("wav", "info"): "what rekordbox and Windows read",
    ("flac", "vorbis"): USUAL,
    ("vorbis", "vorbis"): USUAL,
    ("opus", "vorbis"): USUAL,
    ("oggflac", "vorbis"): USUAL,
    ("mp4", "ilst"): USUAL,
    ("asf", "asf"): USUAL,
}
Report = dict[str, Any]


class Listener(Protocol):
    """Receives the progress of an examination."""

    def begin(self, step: str, files: int, size_bytes: int) -> None:
        """The number of files to examine is known."""

    def advance(self, path: str, outcome: str) -> None:
        """One file was examined."""


def diagnose(settings: Settings, paths: Sequence[Path], listener: Listener) -> dict[str, Any]:
    """Examine files and folders: {files, folders, verdicts, contradicting, reports}.

    verdicts: files by verdict. reports: one for each named file, and for each file in a folder that is not writable or
    whose tags contradict each other.
    """
    targets = folders_to_scan(paths, (), ())
    folders = [target for target in targets if os.path.isdir(target)]  # noqa: PTH112 - bytes
    named = [target for target in targets if os.path.isfile(target)]  # noqa: PTH113 - bytes
    reports = [_unreadable(target, "no such file or folder") for target in targets if target not in {*folders, *named}]
    inside: list[bytes] = []
    for path, found in (entry for folder in folders for entry in walk(folder, settings.ignore)):
        if found is None:
            reports.append(_unreadable(path, "this folder cannot be read"))
        else:
            inside.append(path)
    counts = Counter(report["verdict"] for report in reports)
    contradicting = 0
    listener.begin("examining", len(named) + len(inside), 0)
    for number, report in enumerate(_reports([*named, *inside], settings)):
        counts[report["verdict"]] += 1
        contradicting += bool(report["contradictions"])
        if number < len(named) or report["verdict"] != "writable" or report["contradictions"]:
            reports.append(report)
        listener.advance(report["path"], report["verdict"])
    verdicts = {verdict: counts[verdict] for verdict in VERDICTS if counts[verdict]}
    return {
        "files": len(named) + len(inside),
        "folders": len(folders),
        "verdicts": verdicts,
        "contradicting": contradicting,
        "reports": reports,
    }


def exit_code(found: dict[str, Any]) -> int:
    """0 when every file can be read and written, or is of a kind that has no place for a genre; else 1."""
    return 1 if any(found["verdicts"].get(verdict) for verdict in FAILING) else 0


def _reports(paths: Sequence[bytes], settings: Settings) -> Iterator[Report]:
    """Yield a report of every file, in order; several child processes examine them."""
    jobs = max(1, min(settings.worker_count(), len(paths)))
    workers = [Worker(Limits.of(settings)) for _ in range(jobs)]
    free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for worker in workers:
        free.put(worker)

    def examine(path: bytes) -> Report:
        worker = free.get()
        try:
            return report_of(path, worker.call("examine", path))
        except FileError as error:
            return _unreadable(path, error.reason)
        finally:
            free.put(worker)

    pool = ThreadPoolExecutor(len(workers), thread_name_prefix="doctor")
    try:
        for start in range(0, len(paths), CHUNK):
            yield from pool.map(examine, paths[start : start + CHUNK])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.interrupt()
        pool.shutdown(wait=True)
        for worker in workers:
            worker.close()


def _unreadable(path: bytes, reason: str) -> Report:
    return {
        "path": printable(path),
        "verdict": "unreadable",
        "reason": clean(reason),
        "container": None,
        "genres": [],
        "genre": None,
        "indexer": None,
        "original_genre": None,
        "dj_data": [],
        "contradictions": [],
    }


def report_of(path: bytes, facts: dict[str, Any]) -> Report:
    """Turn the facts of one file into a report: plain values, each text on one line."""
    found = Tags.from_json(facts["tags"]) if facts["tags"] else None
    verdict, reason = _verdict(facts)
    container = facts["container"]
    genres = [
        {
            "place": p["name"],
            "exists": p["exists"],
            "values": p["values"],
            "problem": p["problem"],
            "read_by": READ_BY.get((container, p["kind"])) if p["own"] else None,
        }
        for p in facts["places"]
    ]
    report = {
        **_unreadable(path, reason or ""),
        "verdict": verdict,
        "reason": clean(reason) if reason else None,
        "container": container,
        "genres": genres,
        "contradictions": contradictions(container, facts["places"]),
    }
    if found:
        ours = found.ours
        report["indexer"] = ours and {
            "genre": ours.genre,
            "label": ours.label,
            "confidence": ours.confidence,
            "model": ours.model,
            "standing": found.genre_is_ours,
        }
        report |= {
            "genre": found.genre,
            "dj_data": list(found.dj_data),
            "original_genre": None if found.original_genres is None else list(found.original_genres),
        }
    return report


def _verdict(facts: dict[str, Any]) -> tuple[str, str | None]:
    complaint = facts["unread"] or facts["unwritten"]
    if complaint is None:
        return "writable", None
    state, reason = complaint["state"], complaint["reason"]
    if state == "ready":
        return "truncated", f"{reason}; what is there is heard, and no genre is written into it"
    if state == "unsupported":
        return "unsupported", reason
    if facts["unread"] is None:  # the file can be read, and only a write is refused
        return "refused", reason
    return "truncated" if reason.startswith("truncated") else "unreadable", reason


def contradictions(container: str, places: Sequence[dict[str, Any]]) -> list[str]:
    """Compare each place with the first one that holds a genre: a sentence for each that differs."""
    # The ASF library object only continues the ASF field.
    places = [p for p in places if p["kind"] != "asf library" and not p["problem"]]
    first = next((p for p in places if p["values"]), None)
    if first is None:
        return []
    found = [_disagreement(container, first, place) for place in places if place is not first]
    return [sentence for sentence in found if sentence]


def _disagreement(container: str, first: dict[str, Any], place: dict[str, Any]) -> str | None:
    here, there = _plain(place["values"]), _plain(first["values"])
    says = f"{first['name']} says {_joined(first['values'])}"
    if not here:
        reader = READ_BY.get((container, place["kind"]))
        return f"{says}, {place['name']} ({reader}) says nothing" if place["filled"] and reader else None
    if here == there or (place["kind"] == "id3v1" and here < there):  # ID3v1 has room for one genre
        return None
    return f"{says}, {place['name']} says {_joined(place['values'])}"


def _plain(values: Sequence[str]) -> set[str]:
    """Genres in the form that is compared: without case and punctuation, "and" and "&" alike."""
    words = (word.casefold().replace("&", "and") for value in values for word in value.split(";"))
    return {plain for word in words if (plain := "".join(c for c in word if c.isalnum()))}


def _joined(values: Sequence[str]) -> str:
    return "; ".join(values) or "(none)"


# ---- texts


def to_text(found: dict[str, Any]) -> str:
    """The result as text for a person: a summary where folders were named, then the reports."""
    lines = [_summary(found)] if found["folders"] else []
    return "\n".join([*lines, *map(_report_text, found["reports"])])


def _summary(found: dict[str, Any]) -> str:
    counts = ", ".join(f"{count:,} {verdict}" for verdict, count in found["verdicts"].items())
    apart = f"; places contradict each other in {found['contradicting']:,}" if found["contradicting"] else ""
    return f"{found['files']:,} file{'' if found['files'] == 1 else 's'}{': ' if counts else ''}{counts}{apart}"


def _report_text(report: Report) -> str:
    kind = f" ({report['container']})" if report["container"] else ""
    verdict, reason = report["verdict"], report["reason"]
    says = reason if reason and reason.startswith(verdict) else ": ".join(filter(None, (verdict, reason)))
    lines = [f"{report['path']}{kind}: {says}"]
    for genre in report["genres"]:
        value = (
            f"unreadable: {genre['problem']}"
            if genre["problem"]
            else _joined(genre["values"])
            if genre["exists"]
            else "(no such tag)"
        )
        lines.append(f"  {genre['place']:14}  {value}" + (f"  [{genre['read_by']}]" if genre["read_by"] else ""))
    if report["genre"] and not any(genre["values"] for genre in report["genres"]):
        lines.append(f"  {'read as':14}  {report['genre']}")
    lines += [f"  {name:14}  {text}" for name, text in _own_lines(report)]
    return "\n".join([*lines, *(f"  ! {sentence}" for sentence in report["contradictions"])])


def _own_lines(report: Report) -> Iterator[tuple[str, str]]:
    ours: Callable[[str], str] = lambda key: clean(str(report["indexer"][key]))  # noqa: E731
    if report["indexer"]:
        state = "stands" if report["indexer"]["standing"] else "changed since"
        yield (
            "by us",
            f"{ours('genre')} ({ours('label')} {report['indexer']['confidence']:.0%}, {ours('model')}), {state}",
        )
    if report["original_genre"] is not None:
        yield "before us", _joined(report["original_genre"])
    if report["dj_data"]:
        yield "DJ data", ", ".join(report["dj_data"])
