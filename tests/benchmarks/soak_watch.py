"""A music folder in which everything happens at once, under a daemon that is killed over and over.

    python -m tests.benchmarks.soak_watch [--files 2000] [--minutes 10] [--seed N] [--folder DIR]

Copies of some 40 short recordings arrive, move, are replaced, retagged and vanish at random, while `indexer watch` or
its working process is killed, stopped and started again. In the last quarter nobody is killed: its memory at start and
end is named. When all is quiet, the daemon scans once more and is stopped. Checked: the library equals a fresh scan of
the same tree, row by row, tags, genres, vectors and predictions included; every file holds the recording, the title and
the genre that it should; nothing was embedded twice; no copy, process or open journal entry is left. Exit code 1 on any
difference.

A seed repeats the operations and the kinds of kills in their order; what the daemon does at that moment is the
machine's. The folder (default: a temporary one, removed unless something differs) should be on a disk, as at home.
"""

import argparse
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import mutagen
import mutagen.id3
import mutagen.mp4
import numpy as np

from indexer import config
from indexer.encoders.load import built_in_info
from indexer.files.audio.identity import fingerprint
from indexer.files.tags.copies import TEMP_SUFFIX
from indexer.heads.linear import LinearHead
from indexer.library.readonly import open_readonly
from indexer.library.tracks_view import DEFAULT_LABELS
from indexer.wording import printable
from tests.helpers.cli import Cli
from tests.helpers.daemons import Watching
from tests.helpers.synth import write_audio

RECORDINGS = 40
KINDS = ("mp3", "flac", "vorbis", "wav", "m4a")
LIVES = 25  # the daemon is killed or stopped about so often in the whole time
LAST_LIFE = 0.75  # of the time; after it nobody is killed
QUIET_S = 3.0  # without work: all events are through
LIMIT_S = 300.0  # for the daemon to come to rest, or to end
SHOWN = 20  # differences that are printed of each kind
WORDS = ("Acid", "Âme", "a\u0301 la", "dub", "Dub", "x" * 90, "50%", "Tiefe 深い", " blank ", "new\nline",
         os.fsdecode(b"latin \xe9"), "-rf", "it's", "B.mp3")  # fmt: skip


# --- the files, and what should be in them ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """A file to copy from."""

    path: Path
    kind: str
    audio_sha256: str
    genre: str | None


@dataclass(eq=False)
class Track:
    """A file of the tree: where it is, and what its owner knows about it."""

    path: Path
    recording: Recording
    title: str | None = None
    genre: str | None = None  # the owner's; None: the daemon's to fill


@dataclass(eq=False)
class Copying:
    """A file that arrives piece by piece, as downloads and slow drives have it; its folder may move meanwhile."""

    track: Track
    file: IO[bytes]
    pieces: list[bytes]


def make_recordings(folder: Path, count: int) -> list[Recording]:
    """Short recordings of all kinds in turn, every fourth with a genre of its owner's."""
    folder.mkdir()
    found = []
    for n in range(count):
        kind, genre = KINDS[n % len(KINDS)], "Schlager" if n % 4 == 0 else None
        path = write_audio(folder / str(n), kind, 0.5 + n % 6 / 10, seed=n)
        if genre:
            retag(path, genre=genre)
        with path.open("rb") as file:
            found.append(Recording(path, kind, fingerprint(file, path).audio_sha256, genre))
    assert len({one.audio_sha256 for one in found}) == count
    return found


def retag(path: Path, *, title: str | None = None, genre: str | None = None) -> None:
    """Set what is given as a tagger does: in the file itself; an empty genre is removed."""
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    id3, mp4 = isinstance(file.tags, mutagen.id3.ID3), isinstance(file.tags, mutagen.mp4.MP4Tags)
    for value, frame, atom, name in (
        (title, mutagen.id3.TIT2, "\xa9nam", "title"),
        (genre, mutagen.id3.TCON, "\xa9gen", "genre"),
    ):
        if value is None:
            continue
        key = frame.__name__ if id3 else atom if mp4 else name
        with suppress(KeyError):
            del file.tags[key]
        if value:
            file.tags[key] = frame(encoding=3, text=value) if id3 else [value]
    file.save()


class Tree:
    """A music folder and all that its owner does to it."""

    def __init__(self, folder: Path, recordings: list[Recording], files: int, seed: int) -> None:
        self.root, self._outside = folder / "music", folder / "outside"
        self.root.mkdir()
        self._outside.mkdir()
        self._recordings = recordings
        self._files = files
        self._rng = random.Random(seed)
        self._number = 0
        self.arrived = 0
        self.tracks: list[Track] = []
        self._away: list[Track] = []
        self._copying: list[Copying] = []
        self.done: Counter[str] = Counter()
        self._arrivals = ((self._copy_slowly, 40), (self._move_in_new, 30), (self._album, 12), (self._duplicate, 18))
        self._others = (
            (self._rename, 18),
            (self._move, 14),
            (self._rename_folder, 5),
            (self._replace, 10),
            (self._rewrite, 6),
            (self._swap, 4),
            (self._title, 14),
            (self._genre, 10),
            (self._touch, 6),
            (self._delete, 10),
            (self._delete_folder, 1),
            (self._move_out, 6),
            (self._move_back, 6),
        )

    def act(self) -> None:
        """One thing happens, and one slow copy goes on."""
        if self._copying:
            self._go_on(self._rng.choice(self._copying))
        arriving = self.arrived < self._files and self._rng.random() < 0.5
        actions, weights = zip(*(self._arrivals if arriving or not self.tracks else self._others), strict=True)
        action = self._rng.choices(actions, weights)[0]
        self.done[action.__name__.strip("_")] += 1
        action()

    def finish(self) -> None:
        """What is being copied arrives."""
        while self._copying:
            self._go_on(self._copying[0])

    # arrivals

    def _copy_slowly(self) -> None:
        track = self._new(self._place())
        data, cuts = track.recording.path.read_bytes(), self._rng.randrange(2, 9)
        size = len(data) // cuts + 1
        self._copying.append(
            Copying(track, track.path.open("xb"), [data[at : at + size] for at in range(0, len(data), size)])
        )

    def _go_on(self, copying: Copying) -> None:
        copying.file.write(copying.pieces.pop(0))
        copying.file.flush()
        if not copying.pieces:
            copying.file.close()
            self._copying.remove(copying)
            self.tracks.append(copying.track)

    def _move_in_new(self) -> None:
        track = self._new(self._place())
        self._content(track.recording).rename(track.path)
        self.tracks.append(track)

    def _album(self) -> None:
        """A folder that was filled elsewhere comes at once."""
        album, place = self._outside / self._name(), self._folder() / self._name()
        album.mkdir()
        for n in range(self._rng.randrange(3, 12)):
            track = self._new(place / f"{n:02}")
            shutil.copy(track.recording.path, album / track.path.name)
            self.tracks.append(track)
        album.rename(place)

    def _duplicate(self) -> None:
        if not self.tracks:
            return
        one = self._any()
        track = Track(self._place().with_suffix(one.path.suffix), one.recording, one.title, one.genre)
        shutil.copy2(one.path, track.path)
        self.arrived += 1
        self.tracks.append(track)

    # what happens to files that are there

    def _rename(self) -> None:
        track = self._any()
        name = self._rng.choice((track.path.stem.swapcase(), self._name()))
        self._move_to(track, track.path.with_name(name + track.path.suffix))

    def _move(self) -> None:
        track = self._any()
        self._move_to(track, self._folder() / track.path.name)

    def _rename_folder(self) -> None:
        folder = self._any().path.parent
        if folder == self.root:
            return
        if self._rng.random() < 0.3 and folder.parent != self.root:
            folder = folder.parent
        new = self._rng.choice((folder.parent, self.root)) / self._name()
        folder.rename(new)
        for track in [*self.tracks, *(one.track for one in self._copying)]:
            if track.path.is_relative_to(folder):
                track.path = new / track.path.relative_to(folder)

    def _replace(self) -> None:
        """Another recording of the same kind takes the place."""
        track = self._any()
        self._becomes(track, self._another(track))
        self._content(track.recording).replace(track.path)

    def _rewrite(self) -> None:
        """The same, but in the file itself."""
        track = self._any()
        self._becomes(track, self._another(track))
        track.path.write_bytes(track.recording.path.read_bytes())

    def _swap(self) -> None:
        one, other = self._any(), self._any()
        if one is other or one.path.suffix != other.path.suffix:
            return
        aside = self._outside / self._name()
        one.path.rename(aside)
        other.path.rename(one.path)
        aside.rename(other.path)
        one.path, other.path = other.path, one.path

    def _title(self) -> None:
        track = self._any()
        self._number += 1
        track.title = f"Títle {self._number} ☃"
        retag(track.path, title=track.title)

    def _genre(self) -> None:
        track = self._any()
        track.genre = None if self._rng.random() < 0.3 else f"mine {self._rng.randrange(9)}"
        retag(track.path, genre=track.genre or "")

    def _touch(self) -> None:
        os.utime(self._any().path)

    def _delete(self) -> None:
        track = self._any()
        self.tracks.remove(track)
        track.path.unlink()

    def _delete_folder(self) -> None:
        folder = self._any().path.parent
        if folder == self.root or any(one.track.path.is_relative_to(folder) for one in self._copying):
            return
        self.tracks = [track for track in self.tracks if not track.path.is_relative_to(folder)]
        shutil.rmtree(folder, ignore_errors=True)  # a copy of the daemon's may keep the folder

    def _move_out(self) -> None:
        track = self._any()
        self.tracks.remove(track)
        self._away.append(track)
        self._move_to(track, self._outside / (self._name() + track.path.suffix))

    def _move_back(self) -> None:
        if not self._away:
            return
        track = self._away.pop(self._rng.randrange(len(self._away)))
        self._move_to(track, self._folder() / track.path.name)
        self.tracks.append(track)

    # small things

    def _any(self) -> Track:
        return self._rng.choice(self.tracks)

    def _another(self, track: Track) -> Recording:
        return self._rng.choice([one for one in self._recordings if one.kind == track.recording.kind])

    def _becomes(self, track: Track, recording: Recording) -> None:
        track.recording, track.title, track.genre = recording, None, recording.genre

    def _new(self, path: Path) -> Track:
        self.arrived += 1
        recording = self._rng.choice(self._recordings)
        return Track(path.with_name(path.name + recording.path.suffix), recording, None, recording.genre)

    def _content(self, recording: Recording) -> Path:
        return Path(shutil.copy(recording.path, self._outside / self._name()))

    def _move_to(self, track: Track, path: Path) -> None:
        if not path.exists():
            track.path.rename(path)
            track.path = path

    def _name(self) -> str:
        self._number += 1
        return f"{self._rng.choice(WORDS)} {self._number}"

    def _folder(self) -> Path:
        folder = self.root / f"label {self._rng.randrange(8)}" / f"album {self._rng.randrange(12)}"
        if self._rng.random() < 0.03:
            folder = self.root
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _place(self) -> Path:
        return self._folder() / self._name()


# --- the daemon, who kills it, and what it leaves ---------------------------------------------------------------------


@dataclass
class Keeper:
    """Keeps a daemon running, and ends it in every way there is."""

    cli: Cli
    root: Path
    environ: dict[str, object]
    rng: random.Random
    mean_life_s: float
    kill_until_s: float  # on the monotonic clock
    failures: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    raised: Counter[str] = field(default_factory=Counter)
    last_life: bool = False
    sessions: list[int] = field(default_factory=list)
    longest_stop_s: float = 0.0
    watch: Watching | None = None
    _due_s: float = 0.0
    _stopping_s: float | None = None

    def tend(self) -> None:
        """Start what does not run, end what has lived long enough; called often, never waits."""
        moment_s = time.monotonic()
        if self.watch and self.watch.process.poll() is not None:
            self._ended(moment_s)
        elif (
            self.watch
            and self._stopping_s is None
            and not self.last_life
            and moment_s >= min(self._due_s, self.kill_until_s)
        ):
            self._end_somehow(self.watch, moment_s)
        elif self.watch is None and moment_s >= self._due_s:
            self.start()

    def start(self) -> None:
        self.last_life = time.monotonic() >= self.kill_until_s
        self.watch = Watching(
            self.cli,
            self.root,
            verbose=False,
            unload_after_s=300 if self.last_life else self.rng.choice((1, 300)),
            **self.environ,
        )
        self.sessions.append(self.watch.process.pid)
        self._due_s = time.monotonic() + min(4 * self.mean_life_s, 0.3 + self.rng.expovariate(1 / self.mean_life_s))

    def _end_somehow(self, watch: Watching, moment_s: float) -> None:
        how = self.rng.choices(("daemon killed", "working process killed", "both killed", "stopped"), (45, 25, 5, 25))[
            0
        ]
        if moment_s >= self.kill_until_s:
            how = "daemon killed"
        self.kills[how] += 1
        if how in ("working process killed", "both killed"):
            for pid in watch.runner_pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if how in ("daemon killed", "both killed"):
            watch.process.kill()
            watch.process.wait()
            self._look_at_lines(watch)
            self.watch = None
            self._due_s = moment_s + self.rng.choice((0.0, self.rng.uniform(0, 3)))
        elif how == "working process killed":
            self._due_s = moment_s + self.rng.expovariate(1 / self.mean_life_s)
        else:
            watch.process.send_signal(signal.SIGTERM)
            self._stopping_s = moment_s

    def _ended(self, moment_s: float) -> None:
        assert self.watch
        code = self.watch.process.returncode
        if self._stopping_s is None:
            self.failures.append(f"the daemon ended by itself with exit code {code}: {self.watch.lines[-3:]}")
        else:
            self.longest_stop_s = max(self.longest_stop_s, moment_s - self._stopping_s)
            if code != 0 and (code != -signal.SIGTERM or self.watch.lines):  # killed by it before it had begun
                self.failures.append(
                    f"stopped with SIGTERM, the daemon's exit code was {code}: {self.watch.lines[-3:]}"
                )
        self._look_at_lines(self.watch)
        self.watch, self._stopping_s = None, None
        self._due_s = moment_s + self.rng.choice((0.0, self.rng.uniform(0, 3)))

    def _look_at_lines(self, watch: Watching) -> None:
        for n, line in enumerate(watch.lines):
            if line.startswith(("Traceback", "Fatal Python error")):
                trace = watch.lines[n : n + 40]
                end = next((m for m, text in enumerate(trace) if m and not text.startswith(" ")), len(trace))
                self.raised["\n    ".join(trace[max(0, end - 4) : end + 1])] += 1

    def settle(self) -> Watching:
        """The daemon, when there is nothing left to do for it."""

        def runs() -> bool:
            self.tend()
            return self.watch is not None and self._stopping_s is None

        until(runs, "a daemon runs")
        watch = self.watch
        assert watch
        before: tuple[object, ...] = ()
        began_s = since_s = time.monotonic()
        while time.monotonic() - since_s < QUIET_S and time.monotonic() - began_s < LIMIT_S:
            now = watch.status.get("state"), watch.rows("SELECT max(id), count(*) FROM runs")
            if now != before or now[0] != "idle":
                before, since_s = now, time.monotonic()
            time.sleep(0.2)
        if before[0] != "idle":
            self.failures.append(f"the daemon did not come to rest: {watch.status}")
        return watch

    def stop(self) -> None:
        """For good."""
        assert self.watch
        self._stopping_s = time.monotonic()
        self.watch.process.send_signal(signal.SIGTERM)
        until(lambda: self.watch is not None and self.watch.process.poll() is not None, "the daemon has ended")
        self._ended(time.monotonic())
        until(lambda: not self.left_behind(), limit_s=15)
        if left := self.left_behind():
            self.failures.append(f"processes were left behind: {left}")

    def left_behind(self) -> dict[int, str]:
        """Processes of all lives that are still there, with their state and command line."""
        found = {}
        for pid, _, session, state in processes():
            if session in self.sessions:
                with suppress(OSError):
                    found[pid] = f"{state} {Path(f'/proc/{pid}/cmdline').read_text()}"
        return found

    def kill_all(self) -> None:
        for session in self.sessions:
            with suppress(ProcessLookupError):
                os.killpg(session, signal.SIGKILL)


def processes() -> Iterator[tuple[int, int, int, str]]:
    """(pid, parent, session, state) of all."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent, _, session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            yield int(folder.name), int(parent), int(session), state


def memory_mb(watch: Watching) -> str:
    """Resident memory of the daemon, of its working process and of that one's readers."""

    def rss_mb(pid: int) -> float:
        with suppress(OSError):
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        return 0.0

    runners = watch.runner_pids()
    readers = [pid for pid, parent, _, _ in processes() if parent in runners]
    return (
        f"daemon {rss_mb(watch.process.pid):.1f} MB, working process {sum(map(rss_mb, runners)):.1f} MB, "
        f"{len(readers)} readers {sum(map(rss_mb, readers)):.1f} MB"
    )


def until(condition: Callable[[], bool], what: str | None = None, *, limit_s: float = LIMIT_S) -> None:
    """Wait for something to come true; what has a name must."""
    end_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end_s:
            if what:
                raise TimeoutError(f"not within {limit_s:.0f} s: {what}")
            return
        time.sleep(0.05)


# --- the books --------------------------------------------------------------------------------------------------------

TAGS = (
    "title, artist, album, album_artist, year, bpm, musical_key, record_label, comment, genre, indexer_genre, dj_data"
)
FILES = (
    f"SELECT f.path, f.state, f.reason, r.audio_sha256, f.container, f.dev, f.ino, f.size, f.mtime_ns, {TAGS} "
    "FROM files f LEFT JOIN recordings r ON r.id = f.recording_id LEFT JOIN tags t ON t.file_id = f.id "
    "WHERE f.state <> 'missing'"
)
HERE = "r.id IN (SELECT recording_id FROM files WHERE state = 'ready')"
BOOKS = {
    "file": FILES,
    "embedding": "SELECT r.audio_sha256, e.encoder_id, e.vector, e.units, e.course, r.reason "
    f"FROM recordings r JOIN embeddings e ON e.recording_id = r.id WHERE {HERE}",
    "prediction": "SELECT r.audio_sha256, p.head_id, p.genre, p.confidence, p.threshold, p.decided, p.reason, "
    f"p.second_genre FROM recordings r JOIN predictions p ON p.recording_id = r.id WHERE {HERE}",
    "score": "SELECT r.audio_sha256 || s.genre, s.head_id, s.probability "
    f"FROM recordings r JOIN scores s ON s.recording_id = r.id WHERE {HERE}",
    "root": "SELECT path, state, reason FROM roots",
}


def book(db: Path, statement: str) -> dict[object, tuple[object, ...]]:
    """Rows by their first column."""
    conn = open_readonly(db)
    found = {row[0]: tuple(row)[1:] for row in conn.execute(statement)}
    conn.close()
    return found


def differences(db: Path, fresh: Path) -> list[str]:
    """What the two libraries do not agree on."""
    found = []
    for name, statement in BOOKS.items():
        ours, theirs = book(db, statement), book(fresh, statement)
        found += [
            f"{name} {shown(key)}: {shown(ours.get(key))}, a fresh scan says {shown(theirs.get(key))}"
            for key in ours.keys() | theirs.keys()
            if ours.get(key) != theirs.get(key)
        ]
    return sorted(found)


def shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(shown, value))})"
    return printable(value)[:300] if isinstance(value, bytes) else repr(value)


def wrong_files(tree: Tree, db: Path) -> list[str]:
    """Files that are not what their owner made of them, on the disk or in the library."""
    ours, predicted = book(db, FILES), book(db, BOOKS["prediction"])
    expected = {os.fsencode(track.path): track for track in tree.tracks}
    there = {os.fsencode(path): path for path in tree.root.rglob("*") if path.is_file()}
    found = [f"{shown(path)}: on the disk, and nobody put it there" for path in there.keys() - expected.keys()]
    found += [f"{shown(path)}: lost" for path in expected.keys() - there.keys()]
    found += [f"{shown(path)}: the library knows a file that is not there" for path in ours.keys() - there.keys()]
    for name in sorted(there.keys() & expected.keys()):
        track, stat = expected[name], os.stat(name)
        with track.path.open("rb") as file:
            audio_sha256 = fingerprint(file, track.path).audio_sha256
        if audio_sha256 != track.recording.audio_sha256:
            found.append(f"{shown(name)}: its audio is not what was put there")
            continue
        text = config.Settings().text_for(str(predicted[audio_sha256][1])) if audio_sha256 in predicted else None
        wanted = ("ready", audio_sha256, stat.st_ino, stat.st_size, track.title, track.genre or text)
        row = ours.get(name)
        known = (row[0], row[2], row[5], row[6], row[8], row[17]) if row else None
        if known != wanted:
            found.append(f"{shown(name)}: {known}, not {wanted}; {row}")
    return found


def wrong_books(db: Path, recordings: list[Recording]) -> list[str]:
    """What cannot be right in the library itself."""
    conn = sqlite3.connect(db)
    pool = {one.audio_sha256 for one in recordings}

    def one(statement: str) -> int:
        return int(conn.execute(statement).fetchone()[0])

    embedded = one("SELECT count(*) FROM embeddings")
    known = {row[0] for row in conn.execute("SELECT audio_sha256 FROM recordings")}
    found = []
    if (changes := one("SELECT sum(changes) FROM encoders")) != embedded:
        found.append(f"{changes} embeddings were stored for {embedded} recordings: some were embedded twice")
    if embedded != len(known):
        found.append(f"{len(known)} recordings were seen and {embedded} are embedded")
    if strange := known - pool:
        found.append(f"{len(strange)} recordings that no whole file ever had: files were read while they were written")
    if open_writes := one("SELECT count(*) FROM tag_writes WHERE state = 'intended'"):
        found.append(f"{open_writes} tag writes are open")
    found += [f"integrity: {row[0]}" for row in conn.execute("PRAGMA integrity_check") if row[0] != "ok"]
    found += [f"foreign key: {row}" for row in conn.execute("PRAGMA foreign_key_check")]
    try:
        conn.execute("INSERT INTO tags_fts (tags_fts, rank) VALUES ('integrity-check', 1)")
    except sqlite3.DatabaseError as e:
        found.append(f"full-text index: {e}")
    conn.close()
    return found


def leftovers(folder: Path) -> list[str]:
    return [f"left behind: {shown(os.fsencode(path))}" for path in folder.rglob(f"*{TEMP_SUFFIX}")]


# --- the run ----------------------------------------------------------------------------------------------------------


def make_head(path: Path, seed: int) -> Path:
    """Random weights: its genres mean nothing, but are the same in every scan."""
    encoder, rng = built_in_info("rhythm"), np.random.default_rng(seed)
    weight = 0.1 * rng.standard_normal((len(DEFAULT_LABELS), encoder.width)).astype(np.float32)
    LinearHead(
        "random", encoder.encoder_id, DEFAULT_LABELS, 0.0, weight, np.zeros(len(DEFAULT_LABELS), np.float32)
    ).save(path)
    return path


def soak(folder: Path, *, files: int, minutes: float, seed: int) -> list[str]:
    """Everything; returns what is wrong."""
    folder = folder.resolve()
    recordings = make_recordings(folder / "recordings", RECORDINGS)
    tree = Tree(folder, recordings, files, seed)
    for name in ("state", "fresh"):
        (folder / name).mkdir()
    (folder / "config.toml").touch()
    environ: dict[str, object] = {
        "head": make_head(folder / "head.safetensors", seed),
        "config": folder / "config.toml",
    }
    began_s, duration_s = time.monotonic(), 60 * minutes
    cli = Cli(folder / "state", Path("rhythm"))
    keeper = Keeper(
        cli, tree.root, environ, random.Random(seed + 1), duration_s / LIVES, began_s + LAST_LIFE * duration_s
    )
    try:
        print(live(tree, keeper, random.Random(seed + 2), began_s, duration_s, files), flush=True)
        watch = keeper.settle()
        print(f"memory at the end: {memory_mb(watch)}", flush=True)
        early = [*wrong_files(tree, cli.db), *leftovers(folder)]
        say("before the last scan", early)  # not wrong yet: the scan is what is always right
        last = watch.status.get("last_scan_at")
        watch.process.send_signal(signal.SIGHUP)
        until(lambda: watch.status.get("last_scan_at", last) != last and watch.idle(), "the last scan")
        keeper.settle()
        keeper.failures += [
            f"zombie: {pid}" for pid, _, session, state in processes() if session in keeper.sessions and state == "Z"
        ]
        keeper.stop()
    finally:
        keeper.kill_all()
    runs = {row[0]: row[1] for row in book(cli.db, "SELECT state, count(*) FROM runs GROUP BY state").items()}
    print(
        f"{len(keeper.sessions)} lives, {dict(keeper.kills)}, longest stop {keeper.longest_stop_s:.1f} s, runs {runs}"
    )
    keeper.failures += [f"raised {count} times: {trace}" for trace, count in keeper.raised.items()]
    wrong = [*keeper.failures, *wrong_files(tree, cli.db), *wrong_books(cli.db, recordings), *leftovers(folder)]
    fresh = Cli(folder / "fresh", Path("rhythm"))
    result = fresh.json("scan", tree.root, env={f"INDEXER_{key.upper()}": str(value) for key, value in environ.items()})
    if result["tags_written"]:
        wrong.append(f"a fresh scan found {result['tags_written']} genres to write")
    return [*wrong, *differences(cli.db, fresh.db)]


def live(tree: Tree, keeper: Keeper, rng: random.Random, began_s: float, duration_s: float, files: int) -> str:
    """Let it all happen; a line that says what did."""
    measured, due_s = False, began_s
    while (moment_s := time.monotonic()) < began_s + duration_s:
        keeper.tend()
        if not measured and keeper.last_life and keeper.watch and keeper.watch.idle():
            measured = True
            print(
                f"memory at {moment_s - began_s:.0f} s, when the last life had scanned: {memory_mb(keeper.watch)}",
                flush=True,
            )
        if moment_s >= due_s:
            tree.act()
            due_s += rng.expovariate(1.6 * files / duration_s) + (4.0 if rng.random() < 1 / 100 else 0.0)
        time.sleep(max(0.0, min(due_s - time.monotonic(), 0.05)))
    tree.finish()
    return f"{tree.arrived:,} files arrived, {len(tree.tracks):,} are there; {dict(tree.done)}"


def say(what: str, lines: list[str]) -> None:
    if lines:
        print("\n  ".join([f"{what}, {len(lines):,} differences:", *lines[:SHOWN]]), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000, help="files that arrive in all")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--folder", type=Path, help="an empty folder to work in, kept afterwards")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.files:,} files, {options.minutes:g} minutes", flush=True)
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    wrong = soak(folder, files=options.files, minutes=options.minutes, seed=options.seed)
    say("at the end", wrong)
    if not wrong and not options.folder:
        shutil.rmtree(folder)
    print(
        f"seed {options.seed}: "
        + (f"{len(wrong)} differences, see {folder}" if wrong else "all is as a fresh scan finds it")
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
