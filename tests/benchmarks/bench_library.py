"""How everything that looks at the whole library grows with it: time and peak memory of each step at several sizes.

    python -m tests.benchmarks.bench_library [--sizes 1000 10000 100000 1000000] [--folder DIR] [--steps NAME ...]

A tree of empty files, 32 a folder, and a library as a finished scan leaves it: tags, embeddings with trajectories,
predictions, scores, timelines, places on the map. The vectors are random numbers and only 64 wide, so that a million of
them fit on a disk (4 GB in all); wider ones add reading, not steps. Every step runs in a fresh process, its peak memory
is what it adds to that process after all imports. Steps that only look run several times: the median counts. Similar
tracks are in bench_similar, the pages under load in bench_pages.
"""

import argparse
import asyncio
import hashlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import sqlite_utils  # noqa: F401 - imported late by the store: it is not the step's memory

from indexer.cli.progress import Progress
from indexer.config import Settings
from indexer.encoders.encoder import EncoderInfo
from indexer.encoders.trajectory import Collector
from indexer.files.audio.identity import Stat
from indexer.files.walk import walk
from indexer.heads.linear import LinearHead
from indexer.library import summary
from indexer.library.sqlite import now
from indexer.library.store import Store
from indexer.library.vectors import projection
from indexer.library.writing.backlog import Lacking
from indexer.models import choice
from indexer.scan import reading, relabel
from indexer.scan.classify import classify_recording
from indexer.scan.difference import spool_difference
from indexer.scan.policy import tag_policy_digest
from indexer.scan.run import Scan
from indexer.web.serve import make_datasette
from indexer.wording import printable

WIDTH, UNITS, UNIT_S = 64, 50, 6.0
A_FOLDER, A_LABEL = 32, 64 * 32  # files in a folder, and below a folder of folders
NEW = 2000  # recordings that are stored on top
LABELS = ("ambient", "drum and bass", "house", "techno", "trance")
ENCODER = "e" * 64
PAGES = {
    "overview": "/",
    "the Tracks page": "/-/tracks",
    "tracks, first page": "/library/tracks?_size=50",
    "tracks, a genre": "/library/tracks?genre=techno&_size=50",
    "search": "/library/tracks?_search=%22Title+77%22&_size=50",
    "one track": "/library/tracks/77",
    "review": "/-/review.json?skip=77",
    "map, not built yet": "/-/map.bin",
}

Result = dict[str, Any]


def rounds(files: int) -> int:
    """How often a step that only reads is repeated."""
    return 7 if files <= 100_000 else 3


def chosen() -> choice.Chosen:
    """An encoder that is never loaded, and a head for its vectors."""
    rng = np.random.default_rng(1)
    head = LinearHead(
        "made",
        ENCODER,
        LABELS,
        0.5,
        rng.standard_normal((len(LABELS), WIDTH)).astype(np.float32) / 4,
        np.zeros(len(LABELS), np.float32),
    )
    return choice.Chosen(EncoderInfo(ENCODER, "made", WIDTH, 16_000, UNIT_S, "none"), head, Path("none"))


def policy(settings: Settings) -> str:
    """The tag policy under which every file's tag is settled."""
    head = chosen().head
    assert head is not None
    return tag_policy_digest(settings, head, settings.threshold(head.threshold))


def vector(n: int) -> bytes:
    return np.random.default_rng(n).standard_normal(WIDTH, np.float32).astype("<f2").tobytes()


def make_trajectory() -> bytes:
    """The trajectory of one recording, used for all."""
    collector = Collector(UNIT_S)
    for unit in np.random.default_rng(2).standard_normal((UNITS, WIDTH)).astype(np.float32):
        collector.add(unit, 1)
    return collector.finish(np.zeros(WIDTH, np.float32)).to_bytes()


# ---- steps: each measures itself; ``music`` and ``settings.db`` are what the steps before made


def tree(music: Path, _settings: Settings, files: int) -> Result:
    """Make the files."""
    started = time.perf_counter()
    for n in range(files):
        album = music / f"label {n // A_LABEL:04}" / f"album {n // A_FOLDER:06}"
        if n % A_FOLDER == 0:
            album.mkdir(parents=True)
        os.close(os.open(album / f"{n % A_FOLDER:02} - track {n}.mp3", os.O_CREAT | os.O_WRONLY))
    return {"make the tree": time.perf_counter() - started}


def rows(music: Path, settings: Settings, _files: int) -> Result:
    """The rows of a finished scan, by plain SQL in large transactions."""
    started = time.perf_counter()
    rng = np.random.default_rng(0)
    the_trajectory, the_policy, at = make_trajectory(), policy(settings), now()
    with Store(settings.db) as store:
        root = store.add_root(os.fsencode(music))
        choice.register(store, chosen())
        head = store.connection.execute("SELECT id FROM heads").fetchone()["id"]
        n = 0
        walked = ((path, stat) for path, stat in walk(os.fsencode(music)) if stat is not None)
        while page := list(islice(walked, 10_000)):
            ids = range(n + 1, n + 1 + len(page))
            n += len(page)
            scores = rng.dirichlet(np.full(len(LABELS), 0.4), len(page))
            best = scores.argmax(axis=1)
            timelines = rng.integers(0, 255, (len(page), UNITS * len(LABELS)), np.uint8)
            vectors = rng.standard_normal((len(page), WIDTH), np.float32).astype("<f2")
            with store.transaction():
                many = store.connection.executemany
                many(
                    "INSERT INTO recordings (id, audio_sha256, codec, sample_rate_hz, channels, duration_s)"
                    " VALUES (?, ?, 'mp3', 44100, 2, 300.0)",
                    ((i, hashlib.sha256(str(i).encode()).hexdigest()) for i in ids),
                )
                many(
                    "INSERT INTO files (id, recording_id, root_id, path, path_text, container, dev, ino, size,"
                    " mtime_ns, state, tag_policy, first_seen, last_seen)"
                    " VALUES (?, ?, ?, ?, ?, 'mp3', ?, ?, ?, ?, 'ready', ?, ?, ?)",
                    (
                        (
                            i,
                            i,
                            root,
                            path,
                            printable(path),
                            stat.st_dev,
                            stat.st_ino,
                            stat.st_size,
                            stat.st_mtime_ns,
                            the_policy,
                            at,
                            at,
                        )
                        for i, (path, stat) in zip(ids, page, strict=True)
                    ),
                )
                many(
                    "INSERT INTO tags (file_id, title, artist, album, bpm, genre) VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        (
                            i,
                            f"Title {i}",
                            f"Artist {i // 20}",
                            f"Album {i // A_FOLDER}",
                            70.0 + i % 110,
                            ("House", "Techno", None, None)[i % 4],
                        )
                        for i in ids
                    ),
                )
                many(
                    "INSERT INTO embeddings (recording_id, encoder_id, vector, units, course) VALUES (?, ?, ?, ?, ?)",
                    ((i, ENCODER, vectors[k].tobytes(), UNITS, the_trajectory) for k, i in enumerate(ids)),
                )
                many(
                    "INSERT INTO predictions (recording_id, head_id, genre, confidence, threshold, decided)"
                    " VALUES (?, ?, ?, ?, 0.5, ?)",
                    (
                        (i, head, LABELS[best[k]], float(scores[k, best[k]]), int(scores[k, best[k]] >= 0.5))
                        for k, i in enumerate(ids)
                    ),
                )
                many(
                    "INSERT INTO scores (recording_id, head_id, genre, probability) VALUES (?, ?, ?, ?)",
                    (
                        (i, head, label, float(scores[k, j]))
                        for k, i in enumerate(ids)
                        for j, label in enumerate(LABELS)
                    ),
                )
                many(
                    "INSERT INTO timeline (recording_id, head_id, unit_s, scores) VALUES (?, ?, ?, ?)",
                    ((i, head, UNIT_S, timelines[k].tobytes()) for k, i in enumerate(ids)),
                )
    return {"make the rows": time.perf_counter() - started}


def the_map(_music: Path, settings: Settings, files: int) -> Result:
    """New axes, and every recording placed on them."""
    started = time.perf_counter()
    with Store(settings.db) as store:
        assert projection.update(store, ENCODER, [ENCODER]) == files
    return {"the map anew": time.perf_counter() - started}


def plain_walk(folder: str) -> int:
    """The baseline: every name and its stat, nothing else."""
    count = 0
    with os.scandir(folder) as listing:
        for entry in listing:
            if entry.is_dir(follow_symlinks=False):
                count += plain_walk(entry.path)
            else:
                entry.stat(follow_symlinks=False)
                count += 1
    return count


def rescan(music: Path, settings: Settings, files: int) -> Result:
    """A whole scan that finds nothing to do, its difference alone, and the bare walk, in turns."""
    walks, scans, differences = [], [], []
    with Store(settings.db) as store:
        root = int(store.connection.execute("SELECT id FROM roots").fetchone()["id"])
    for _ in range(rounds(files)):
        started = time.perf_counter()
        assert plain_walk(str(music)) == files
        walked = time.perf_counter()
        result = Scan(settings, Progress(-1)).run([music])
        scanned = time.perf_counter()
        assert (result.files, result.counts.any(), result.notes) == (files, False, []), result
        with Store(settings.db) as store:
            store.clear_spool()
            at = time.perf_counter()
            assert spool_difference(store, os.fsencode(music), root_id=root).counts["unchanged"] == files
            differences.append(time.perf_counter() - at)
        walks.append(walked - started)
        scans.append(scanned - walked)
    return {
        "bare walk with stat": statistics.median(walks),
        "rescan, nothing changed": statistics.median(scans),
        "  its difference": statistics.median(differences),
        "  rescan / walk": statistics.median(a / b for a, b in zip(scans, walks, strict=True)),
        "  difference / walk": statistics.median(a / b for a, b in zip(differences, walks, strict=True)),
    }


def changed(music: Path, settings: Settings, files: int) -> Result:
    """The difference where one file in a hundred has another time, spooled and read back."""
    found = []
    with Store(settings.db) as store:
        root = int(store.connection.execute("SELECT id FROM roots").fetchone()["id"])
        store._run("UPDATE files SET mtime_ns = mtime_ns + 1 WHERE id % 100 = 0")
        for _ in range(rounds(files)):
            started = time.perf_counter()
            store.clear_spool()
            spool_difference(store, os.fsencode(music), root_id=root)
            assert store.changed_count() == sum(1 for _ in store.changed()) == files // 100
            found.append(time.perf_counter() - started)
        store._run("UPDATE files SET mtime_ns = mtime_ns - 1 WHERE id % 100 = 0")
    return {"difference, 1 % changed": statistics.median(found)}


def backlog(music: Path, settings: Settings, files: int) -> Result:
    """What earlier scans left undone: nothing, and (under other tag settings) every file that has a decided genre."""
    head, target = chosen().head, [os.fsencode(music)]
    assert head is not None
    nothing = Lacking((ENCODER,), head.id, 0.5, policy(settings))
    all_decided = Lacking((ENCODER,), head.id, 0.5, "another policy")
    counts, lists = [], []
    with Store(settings.db) as store:
        store.clear_spool()
        for _ in range(rounds(files)):
            started = time.perf_counter()
            assert store.backlog_size(target, nothing)[0] == 0
            counted = time.perf_counter()
            assert list(store.backlog(target, nothing)) == []
            counts.append(counted - started)
            lists.append(time.perf_counter() - counted)
        started = time.perf_counter()
        decided = sum(1 for _ in store.backlog(target, all_decided))
        took = time.perf_counter() - started
        assert decided == store.backlog_size(target, all_decided)[0] > files // 2
    return {
        "backlog of nothing, counted": statistics.median(counts),
        "backlog of nothing, listed": statistics.median(lists),
        "backlog of all decided": took,
    }


def status(_music: Path, settings: Settings, files: int) -> Result:
    """`indexer status`, without the start of the program."""
    found = []
    for _ in range(rounds(files)):
        started = time.perf_counter()
        assert summary.status(settings)["files"] == {"ready": files}
        found.append(time.perf_counter() - started)
    return {"status": statistics.median(found)}


def classify(_music: Path, settings: Settings, files: int) -> Result:
    """`indexer relabel`: every recording judged anew from its cached vector and trajectory."""
    found = relabel.relabel(settings)
    assert (found["classified"], found["damaged"]) == (files, 0)
    return {"relabel": found["elapsed_s"]}


def pages(_music: Path, settings: Settings, files: int) -> Result:
    """Whole answers of the server, asked within the process."""

    async def ask() -> Result:
        datasette = make_datasette(settings)
        await datasette.invoke_startup()
        found: Result = {}
        for name, path in PAGES.items():
            times = []
            for _ in range(rounds(files) if "not built" not in name else 1):
                started = time.perf_counter()
                answer = await datasette.client.get(path, headers={"host": "127.0.0.1:8001"}, follow_redirects=True)
                times.append(time.perf_counter() - started)
            found[f"page: {name}" + ("" if answer.status_code == 200 else f" ({answer.status_code})")] = (
                statistics.median(times)
            )
        return found

    return asyncio.run(ask())


def new(_music: Path, settings: Settings, files: int) -> Result:
    """New recordings, in the transactions of a scan: a file's facts, its embedding and prediction, a settled tag."""
    head, the_trajectory, the_policy = chosen().head, make_trajectory(), policy(settings)
    assert head is not None
    with Store(settings.db) as store:
        root = int(store.connection.execute("SELECT id FROM roots").fetchone()["id"])
        started = time.perf_counter()
        for n in range(NEW):
            path, stat = b"/new/%d/%d.mp3" % (n // A_FOLDER, n), Stat(1, n, 1, 1)
            with store.transaction():
                recording = store.recording(
                    hashlib.sha256(path).hexdigest(), codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=300.0
                )
                assert store.file_at(path) is None
                assert store.files_of(recording, reading.MAX_COPIES) == []
                file_id = store.put_file(
                    path,
                    stat,
                    root_id=root,
                    state="ready",
                    container="mp3",
                    recording_id=recording,
                    deaths=store.deaths(path, stat),
                )
                store.put_tags(
                    file_id, {"title": f"New {n}", "artist": f"Artist {n // 20}", "album": f"Album {n // A_FOLDER}"}
                )
            store.file(file_id)
            assert not store.has_embedding(recording, ENCODER)
            with store.transaction():
                store.put_embedding(recording, ENCODER, vector(n), UNITS, the_trajectory)
                store.set_decoded_length(recording, 300.0)
                classify_recording(store, recording, head, 0.5, [(vector(n), the_trajectory)], {})
            store.settle_tags(file_id, the_policy)
        took = time.perf_counter() - started
    return {f"store {NEW:,} new recordings": took}


STEPS: dict[str, Callable[[Path, Settings, int], Result]] = {
    "tree": tree,
    "rows": rows,
    "map": the_map,
    "rescan": rescan,
    "changed": changed,
    "backlog": backlog,
    "status": status,
    "relabel": classify,
    "pages": pages,
    "new": new,
}


# ---- the measuring


def _memory(field: str) -> float:
    """MB of VmRSS (now) or VmHWM (peak since it was last cleared)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def one_step(name: str, folder: Path, files: int) -> None:
    """In the process of its own: print {name: seconds ..., "peak_mb": ...}."""
    choice.choose = lambda *_: chosen()
    settings = Settings(db=folder / "library.db", models=folder / "models")
    Path("/proc/self/clear_refs").write_text("5")
    before_mb = _memory("VmRSS")
    found = STEPS[name](folder / "music", settings, files)
    print(json.dumps({**found, "peak_mb": _memory("VmHWM") - before_mb}))


def measured(folder: Path, files: int, steps: list[str]) -> Iterator[tuple[str, float, float]]:
    """(what, seconds, MB) of every step at one size."""
    (folder / "music").mkdir()
    for name in STEPS:
        if name in steps or name in ("tree", "rows", "map"):
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "tests.benchmarks.bench_library",
                    "--step",
                    name,
                    "--folder",
                    str(folder),
                    "--sizes",
                    str(files),
                ],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            found = json.loads(done.stdout)
            peak_mb = found.pop("peak_mb")
            for what, value in found.items():
                print(f"{files:9,}  {what:28} {value:10.3f}  {peak_mb:7.1f} MB", file=sys.stderr, flush=True)
                yield what, value, peak_mb


def table(found: dict[str, dict[int, tuple[float, float]]], sizes: list[int]) -> Iterator[str]:
    """Seconds and MB by size, then by how much the time grew from the last size but one, as an exponent of the size."""
    yield "| step | " + " | ".join(f"{n:,}" for n in sizes) + " | time grows as |"
    yield "|---" * (len(sizes) + 2) + "|"
    for what, by_size in found.items():
        ratio = " / " in what
        cells = [
            f"{by_size[n][0]:.2f}"
            if ratio
            else f"{by_size[n][0]:.3g} s, {by_size[n][1]:.0f} MB"
            if n in by_size
            else ""
            for n in sizes
        ]
        growth = ""
        if not ratio and len(sizes) > 1 and sizes[-1] in by_size and sizes[-2] in by_size:
            growth = (
                f"n^{math.log(by_size[sizes[-1]][0] / by_size[sizes[-2]][0]) / math.log(sizes[-1] / sizes[-2]):.2f}"
            )
        yield f"| {what} | " + " | ".join(cells) + f" | {growth} |"


def main() -> None:
    """All sizes, or (called by itself) one step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        one_step(given.step, given.folder, given.sizes[0])
        return
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for files in given.sizes:
        folder = Path(tempfile.mkdtemp(dir=given.folder))
        try:
            for what, value, peak_mb in measured(folder, files, given.steps):
                found.setdefault(what, {})[files] = (value, peak_mb)
            print(
                f"{files:9,}  the library takes {(folder / 'library.db').stat().st_size / 1e6:,.0f} MB"
                f" with vectors {WIDTH} numbers wide",
                file=sys.stderr,
                flush=True,
            )
        finally:
            shutil.rmtree(folder)
    print("\n".join(table(found, given.sizes)))


if __name__ == "__main__":
    main()
