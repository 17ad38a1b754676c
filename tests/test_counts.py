"""A guard on counts, not seconds: what a fixed folder costs in decodings, encoder calls, bytes read and SQL statements.

Counts do not depend on the machine, so each bound is exact where the program's threads leave no choice, and says why
where they do.
"""

import os
import re
import shutil
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import mutagen
import pytest

from indexer.files.children.worker import Worker
from indexer.files.containers import AUDIO_SUFFIXES
from tests.helpers.synth import write_audio

pytestmark = pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="bytes read are counted by Linux")

CONTAINERS = ("mp3", "flac", "vorbis", "opus", "m4a", "alac", "wav", "aiff", "wavpack", "wma", "oggflac")
SECONDS = 13.0
UNITS = 2  # of the M2D model, in each
RECORDINGS = len(CONTAINERS)
FILES = RECORDINGS + 1  # one is a copy with other tags
STATEMENTS_A_FILE, STATEMENTS_RETAGGED = 49, 26
KIB = 1024


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

    def statements_beside(self, fixed: "Tally") -> int:
        """How many more than another run made."""
        return len(self.statements) - len(fixed.statements)

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
    """Count the operations of the children and the bytes that they read; ``progress[0]``: when a child last decoded.

    Each child does every operation once beforehand for each kind of file, so that loading of libraries is not counted.
    """
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

    def noted(worker, path, arguments):
        for block in real_decode(worker, path, **arguments):
            progress[0] = time.monotonic()
            yield block

    def decode(self, path, **arguments):
        before = warmed(self, "decode", path, lambda: list(noted(self, path, arguments)))
        yield from noted(self, path, arguments)
        note(self, "decode", path, before)
        progress[0] = time.monotonic()

    monkeypatch.setattr(Worker, "call", call)
    monkeypatch.setattr(Worker, "decode", decode)


def count_encoding(monkeypatch, found, progress):
    """The encoder is made slower than the decoding, as it is with a real model.

    How full its batches are must not depend on luck.
    """
    from indexer.encoders.m2d.encoder import M2DEncoder

    real = M2DEncoder.encode

    def encode(self, units):
        while time.monotonic() - progress[0] < 0.5:
            time.sleep(0.02)
        found.batches.append(len(units))
        return real(self, units)

    monkeypatch.setattr(M2DEncoder, "encode", encode)


def shape(sql):
    """A statement without its values."""
    return re.sub(r"[xX]?'(?:[^']|'')*'|\d+", "?", sql)


def count_statements(monkeypatch, found):
    """SQL statements and commits; what triggers and the full-text index do within a statement belongs to it."""
    real = sqlite3.connect
    in_transaction = [False]
    last = [""]

    def trace(sql):
        again, last[0] = sql == last[0], sql
        verb = sql.split(None, 1)[0].upper()
        writes = verb in ("INSERT", "UPDATE", "DELETE", "REPLACE")
        triggered = again and re.match(
            r"(INSERT INTO|INSERT OR REPLACE INTO|UPDATE) (tags|embeddings|fingerprints)\b", sql
        )  # a trigger is told of under its statement's words
        a_note = sql.startswith("UPDATE runs SET summary")  # how far a run is, every two seconds
        if triggered or a_note or sql.startswith("--") or "'tags_fts" in sql or sql.endswith(".data_version"):
            return
        found.statements.append(sql)
        if verb in ("BEGIN", "COMMIT", "ROLLBACK"):
            in_transaction[0] = verb == "BEGIN"
            found.commits += verb == "COMMIT"
        elif (
            writes and not in_transaction[0] and not re.search(r"\b(INTO|FROM) (changed|vanished)\b", sql)
        ):  # these two are no part of the library
            found.commits += 1

    def connect(*args, **kwargs):
        conn = real(*args, **kwargs)
        conn.set_trace_callback(trace)
        return conn

    monkeypatch.setattr(sqlite3, "connect", connect)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for seed, container in enumerate(CONTAINERS):
        write_audio(folder / container, container, SECONDS, seed=seed)
    return folder


@pytest.fixture
def folder(tmp_path, recordings):
    """Eleven recordings in eleven containers, and a copy of one that is tagged otherwise."""
    folder = tmp_path / "music"
    shutil.copytree(recordings, folder)
    shutil.copy(folder / "flac.flac", folder / "flac-same.flac")
    retag(folder / "flac-same.flac", "Another title")
    assert len([path for path in folder.iterdir() if path.suffix in AUDIO_SUFFIXES]) == FILES
    return folder


def retag(path, title):
    file = mutagen.File(path, easy=True)
    if file.tags is None:
        file.add_tags()
    file["title"] = title
    file.save()


def scanned(cli, tally, folder):
    """What one scan counts."""
    tally.clear()
    summary = cli.json("scan", folder)
    assert summary["failed"] == 0
    return replace(tally), summary


def beside_identity(name, size):
    """What an inspection reads beside all bytes for the identity.

    FFmpeg looks at a head of at most 1 MiB for the codec; tags are at the head or end.
    """
    return comments_walk(name, size) + min(size, 1 << 20) + 256 * KIB


def comments_walk(name, size):
    """The pages of an Ogg file are walked whenever its tags are read: a later comment may stand anywhere."""
    return size if Path(name).suffix in {".ogg", ".opus", ".oga"} else 0


def assert_read_once(counted, operation, sizes, extra):
    """``extra(name, size)``: bytes that are read beyond the file itself."""
    read = {name: n for (what, name), n in counted.bytes_read.items() if what == operation}
    assert read
    assert {name: (n, sizes[name]) for name, n in read.items() if n > sizes[name] + extra(name, sizes[name])} == {}
    assert {
        name: (n, sizes[name]) for name, n in read.items() if n < 0.9 * sizes[name]
    } == {}  # else the counting is broken


def test_a_first_scan_reads_decodes_and_embeds_each_recording_once(cli, folder, tally):
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    empty = folder.parent / "empty"
    empty.mkdir()
    cli("scan", empty)
    fixed, _ = scanned(cli, tally, empty)
    first, summary = scanned(cli, tally, folder)
    assert (summary["files"], summary["embedded"], summary["tags_written"]) == (FILES, RECORDINGS, FILES)

    # More: a file is parsed and hashed again though nobody changed it.
    assert first.of("inspect") == Counter(sizes.keys())
    # More: a recording is decoded again, for a second encoder call, a retry, or because a copy of it is taken for
    # another one.
    decoded = first.of("decode")
    assert (
        decoded.pop("flac.flac", 0) + decoded.pop("flac-same.flac", 0) == 1
    )  # which of the two comes first is up to the threads
    assert decoded == Counter(sizes.keys() - {"flac.flac", "flac-same.flac"})
    # More: a tag is written twice; read_tags would mean that tags are read again which `inspect` has just brought.
    assert first.of("prepare_write") == Counter(sizes.keys())
    assert {what for what, _ in first.operations} == {"inspect", "decode", "prepare_write"}

    # Another number: recordings are cut differently, which makes other vectors, or some are embedded twice.
    assert sum(first.batches) == UNITS * RECORDINGS
    # More: batches are sent off before they are full. At the least 3 of 8; the first one takes what is there, and no
    # more than six files are in work at a time (three for each of two readers), which fill one batch and a half; 5 or 6
    # are usual, more on a busy machine; a batch of one each would be 22 calls.
    assert len(first.batches) <= RECORDINGS, first.batches

    # Identity: all bytes once; FFmpeg looks at a head of at most 1 MiB for the codec, and at the end of an Ogg file for
    # its length; tags are at the head or end. More: the file is hashed twice, or walkers jump between head and end and
    # read the same window again.
    assert_read_once(first, "inspect", sizes, beside_identity)
    # Decoding: all bytes once, and what FFmpeg looks at first. More: decoding starts over, or the length is searched
    # for by reading on.
    assert_read_once(first, "decode", sizes, lambda _, size: 640 * KIB)
    # A tag write reads the original for its copy, its identity and its fields, and the copy to verify both: some three
    # to five times; and heads and ends of at most 1 MiB for what may be damaged.
    assert_read_once(
        first,
        "prepare_write",
        sizes,
        lambda name, size: 4 * size + 4 * comments_walk(name, size) + min(size, 1 << 20) + 900 * KIB,
    )

    # More: one more question or write for every file, hours of them in a large library; it should be one for a page of
    # files, or none. A copy of a recording costs fewer than a new one, and whether it waits for the embedding or finds
    # it is up to the threads.
    assert first.statements_beside(fixed) <= STATEMENTS_A_FILE * FILES
    # More: another wait for the disk. Of each file: what was read; the embedding with its verdict; the tag's intent,
    # its end, that it is settled. The copy has no embedding of its own; two more are for the new root and the map.
    # Fewer where what waited shared one.
    assert 3 * FILES < first.commits - fixed.commits <= 5 * RECORDINGS + 4 + 2


def test_a_scan_of_unchanged_files_costs_the_same_however_many_there_are(cli, folder, tally):
    aside = folder.parent / "aside"
    aside.mkdir()
    for path in sorted(folder.iterdir())[: FILES // 2]:
        path.rename(aside / path.name)
    cli("scan", folder)
    few, summary = scanned(cli, tally, folder)
    assert summary["files"] == FILES - FILES // 2
    for path in aside.iterdir():
        path.rename(folder / path.name)
    assert scanned(cli, tally, folder)[1]["embedded"] > 0
    many, summary = scanned(cli, tally, folder)
    assert summary["files"] == FILES
    # Any: unchanged files are opened, decoded or embedded again.
    assert (many.operations, many.bytes_read, many.batches) == (Counter(), Counter(), [])
    # More than with few: there is a statement or a commit for every file, or for every page of files, where one for all
    # would do.
    assert [shape(sql) for sql in many.statements] == [shape(sql) for sql in few.statements]
    assert many.commits == few.commits


def test_a_file_that_was_retagged_is_read_once_and_not_decoded(cli, folder, tally):
    cli("scan", folder)
    unchanged, _ = scanned(cli, tally, folder)
    for name in ("vorbis.ogg", "mp3.mp3", "alac.m4a"):
        retag(folder / name, "A new title")
        found, summary = scanned(cli, tally, folder)
        assert (summary["embedded"], summary["cached"], summary["tags_written"]) == (0, 1, 0)
        # More: it is read for more than its identity and tags; a decode or an encoder call: its identity depends on its
        # tags.
        assert found.operations == Counter({("inspect", name): 1})
        assert found.batches == []
        size = (folder / name).stat().st_size
        assert_read_once(found, "inspect", {name: size}, beside_identity)
        # More: as for a first scan; here nothing is embedded, judged or written.
        assert found.statements_beside(unchanged) == STATEMENTS_RETAGGED
        assert found.commits - unchanged.commits == 1  # what was read, and that its tag needs nothing
