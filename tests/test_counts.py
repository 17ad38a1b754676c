"""A guard on counts, not seconds: what a fixed folder costs in decodings, encoder calls, bytes read and SQL statements.

Counts do not depend on the machine, so each bound is exact where the program's threads leave no choice, and says why where they do.
"""

import os
import re
import shutil
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import mutagen
import pytest

from indexer.fingerprint import AUDIO_SUFFIXES
from indexer.m2d.encoder import M2DEncoder
from indexer.worker import Worker
from tests.synth import write_audio

pytestmark = pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="bytes read are counted by Linux")

CONTAINERS = ("mp3", "flac", "vorbis", "opus", "m4a", "alac", "wav", "aiff", "wavpack", "wma", "oggflac")
SECONDS = 13.0  # two units of the M2D model and a part of one
RECORDINGS = len(CONTAINERS)
FILES = RECORDINGS + 1  # one is a copy with other tags
@dataclass
class Tally:
    """What happened since it was cleared."""

    operations: Counter = field(default_factory=Counter)  # (what the reading child was asked, file name) -> times
    bytes_read: Counter = field(default_factory=Counter)  # likewise -> all bytes that the child read meanwhile
    batches: list[int] = field(default_factory=list)  # units in each call of the encoder
    statements: list[str] = field(default_factory=list)  # of SQL, without those that SQLite makes for itself
    commits: int = 0

    def clear(self) -> None:
        self.__init__()

    def of(self, operation: str) -> Counter:
        return Counter({name: n for (what, name), n in self.operations.items() if what == operation})


@pytest.fixture
def tally(monkeypatch):
    """Counts at the seams: the reading child, the encoder, the database connection."""
    found = Tally()
    progress = [0.0]  # when the decoding got on last
    count_reading(monkeypatch, found, progress)
    count_encoding(monkeypatch, found, progress)
    count_statements(monkeypatch, found)
    return found


def read_by(worker) -> int:
    """Bytes that a worker's child asked its files and pipes for so far."""
    return int(re.search(r"rchar: (\d+)", Path(f"/proc/{worker._start().pid}/io").read_text()).group(1))


def count_reading(monkeypatch, found, progress):
    """Every operation is done once beforehand by each child for each kind of file, so that loading of libraries is not counted."""
    real_call, real_decode = Worker.call, Worker.decode
    warm: set[tuple] = set()

    def warmed(worker, what, path, act) -> int:
        key = (worker, what, Path(os.fsdecode(path)).suffix)
        if key not in warm and what in ("inspect", "decode", "read_tags"):
            warm.add(key)
            act()
        return read_by(worker)

    def note(worker, what, path, before):
        key = (what, os.path.basename(os.fsdecode(path)))
        found.operations[key] += 1
        found.bytes_read[key] += read_by(worker) - before

    def call(self, op, path, **arguments):
        before = warmed(self, op, path, lambda: real_call(self, op, path, **arguments))
        result = real_call(self, op, path, **arguments)
        note(self, op, path, before)
        return result

    def decode(self, path, **arguments):
        before = warmed(self, "decode", path, lambda: list(real_decode(self, path, **arguments)))
        for block in real_decode(self, path, **arguments):
            progress[0] = time.monotonic()
            yield block
        note(self, "decode", path, before)
        progress[0] = time.monotonic()

    monkeypatch.setattr(Worker, "call", call)
    monkeypatch.setattr(Worker, "decode", decode)


def count_encoding(monkeypatch, found, progress):
    """The encoder is made slower than the decoding, as it is with a real model: how full its batches are must not depend on luck."""
    real = M2DEncoder.encode

    def encode(self, units):
        while time.monotonic() - progress[0] < 0.3:
            time.sleep(0.02)
        found.batches.append(len(units))
        return real(self, units)

    monkeypatch.setattr(M2DEncoder, "encode", encode)


def count_statements(monkeypatch, found):
    """SQL statements and commits; what triggers and the full-text index do within a statement belongs to it."""
    real = sqlite3.connect
    open_transaction = [False]

    def trace(sql):
        if sql.startswith("--") or "tags_fts" in sql:
            return
        found.statements.append(sql)
        verb = sql.split(None, 1)[0].upper()
        if verb in ("BEGIN", "COMMIT", "ROLLBACK"):
            open_transaction[0] = verb == "BEGIN"
            found.commits += verb == "COMMIT"
        elif verb in ("INSERT", "UPDATE", "DELETE", "REPLACE") and not open_transaction[0] and not re.search(r"\b(changed|vanished)\b", sql):
            found.commits += 1

    def connect(*args, **kwargs):
        conn = real(*args, **kwargs)
        conn.set_trace_callback(trace)
        return conn

    monkeypatch.setattr(sqlite3, "connect", connect)


@pytest.fixture
def folder(tmp_path):
    """Eleven recordings in eleven containers, and a copy of one that is tagged otherwise."""
    folder = tmp_path / "music"
    folder.mkdir()
    for seed, container in enumerate(CONTAINERS):
        write_audio(folder / container, container, SECONDS, seed=seed)
    shutil.copy(folder / "flac.flac", folder / "same.flac")
    retag(folder / "same.flac", "Another title")
    assert len([path for path in folder.iterdir() if path.suffix in AUDIO_SUFFIXES]) == FILES
    return folder


def retag(path, title):
    file = mutagen.File(path, easy=True)
    if file.tags is None:
        file.add_tags()
    file["title"] = title
    file.save()


def test_look(cli, folder, tally):
    for _ in range(2):
        tally.clear()
        t = time.monotonic()
        print(cli.json("scan", folder), time.monotonic() - t)
        for (what, name), n in sorted(tally.operations.items()):
            size = (folder / name).stat().st_size
            print(f"{what:14} {name:14} {n} {size:9,} {tally.bytes_read[what, name]:9,} {tally.bytes_read[what, name] / size:.2f}  {tally.bytes_read[what, name] - size:9,}")
        print(tally.batches, len(tally.statements), tally.commits)
        print(*Counter(re.sub(r"X?'[^']*'|\d+", "?", s)[:150] for s in tally.statements).most_common(), sep="\n")
