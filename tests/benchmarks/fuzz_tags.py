"""Mutated real files through the real reader: nothing may crash or hang the program, or change audio or other tags.

    python -m tests.benchmarks.fuzz_tags [--count 20000] [--seed 1] [--start 0] [--jobs 1] [--folder /dev/shm]

Sources are the odd files of ../shared/tag-fixture (where they exist) and synthesised files with full tags, all
containers in turn. Every case depends on the sources, the seed and its number alone: ``--seed S --start N --count 1``
repeats case N, ``--keep FOLDER`` writes the mutated files of failed cases there. Each case: read_tags, inspect,
prepare_write, commit, inspect, undo, inspect. Checked: the audio identity and, where FFmpeg decodes the file, the
decoded samples are those of before; every other tag reads as before; a refused file keeps its bytes; what was written
can be undone; no temporary file stays. Measured: the longest case, and the most memory of the reader process. Exit code
1 on failures.
"""

import argparse
import contextlib
import hashlib
import io
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mutagen
import mutagen.apev2
import mutagen.id3
import mutagen.ogg

from indexer.errors import FileError, ReadError, UnsupportedError, WriteRefusedError
from indexer.files.audio.identity import sniff
from indexer.files.children.worker import Worker
from indexer.files.tags.genre import GenreEdit
from indexer.files.tags.write import Prepared, commit, edit_to_json
from tests.helpers.limits import LIMITS
from tests.helpers.ogg import pages_of
from tests.helpers.peak import begin_peak, peak_bytes
from tests.helpers.synth import CONTAINERS, write_audio

FIXTURE = Path(__file__).parents[3] / "shared" / "tag-fixture"
LARGEST_SOURCE = 200_000  # bytes
STALL_LIMIT_S = 10.0
EDIT = edit_to_json(GenreEdit(("Drum & Bass",), "drum and bass", 0.93, "linear@12345678"))
OWN = {"genres", "ours", "original_genres"}
TAGS_BEHIND = {"ape", "musepack", "mp3"}  # containers whose frames are followed by the tag with nothing between
DEATH = re.compile(r"hung for|crashed the reader|ended unexpectedly")
UNEXPECTED = re.compile(
    r"cannot be read \((\w+): "
)  # from the child's last `except`: an error that no module of ours expects
COLUMNS = ("cases", "written", "refused", "unreadable", "decoded", "undone byte for byte", "child died")
WORD = re.compile(rb"[A-Za-z\xa9][A-Za-z0-9 ]{3}")


@dataclass
class Source:
    """A file to mutate."""

    name: str
    container: str
    data: bytes


@dataclass
class Result:
    """Counts by container, the reasons given, and what went wrong."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, 0)  # seconds of a whole case, its number
    largest: tuple[int, int] = (0, 0)  # bytes of the reader at most, the case's number

    def table(self) -> str:
        """Rows by container, and a sum."""
        total: Counter[str] = Counter()
        for counts in self.counts.values():
            total.update(counts)
        rows = [
            (name, *(counts[c] for c in COLUMNS)) for name, counts in [*sorted(self.counts.items()), ("all", total)]
        ]
        lines = ["| container | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
        return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


# --- sources ----------------------------------------------------------------------------------------------------------


def fixture_sources() -> list[Source]:
    """The odd files, where they are."""
    found = []
    for path in sorted(p for p in FIXTURE.rglob("*") if p.is_file() and p.stat().st_size <= LARGEST_SOURCE):
        with path.open("rb") as file:
            found.append(Source(path.name, sniff(file), path.read_bytes()))
    return [source for source in found if source.container != "other"]


def synthesised_sources(folder: Path) -> list[Source]:
    """Two files of each container: with tags as DJ programs leave them (MP3 also APEv2, ID3v1), and without tags."""
    found = []
    for name in CONTAINERS:
        for tagged in (False, True):
            path = write_audio(folder / f"{name}{tagged:d}", name, 0.3)
            if tagged and name != "aac":
                _fill_tags(path, name)
            with path.open("rb") as file:
                found.append(Source(f"synthesised {path.name}", sniff(file), _always_the_same(path.read_bytes())))
    return found


def _always_the_same(data: bytes) -> bytes:
    """A file with a fixed serial number in place of the random one of an Ogg stream."""
    return b"".join(replace(page, serial=1).to_bytes() for page in pages_of(data)) or data


def _fill_tags(path: Path, name: str) -> None:
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    if isinstance(file.tags, mutagen.id3.ID3):
        for frame in (
            mutagen.id3.TIT2(encoding=1, text="Título ☃"),
            mutagen.id3.TCON(encoding=0, text=["House", "Acid"]),
            mutagen.id3.GEOB(encoding=0, mime="a/b", desc="Serato Markers_", data=b"\xff\xfb\0" * 99),
            mutagen.id3.PRIV(owner="TRAKTOR4", data=bytes(range(256))),
        ):
            file.tags.add(frame)
        if name == "mp3":
            file.save(v1=2)
            ape = mutagen.apev2.APEv2()
            ape["Genre"], ape["Title"] = "House", "T"
            ape.save(path)
            return
    else:
        key = {"m4a": ("\xa9gen", "\xa9nam"), "alac": ("\xa9gen", "\xa9nam"), "wma": ("WM/Genre", "Title")}.get(
            name, ("Genre", "Title")
        )
        file.tags[key[0]], file.tags[key[1]] = ["House", "Acid"], ["Título ☃"]
    file.save()


# --- mutations --------------------------------------------------------------------------------------------------------


def place(rng: random.Random, data: bytes) -> int:
    """A place in the file, most often where tags and headers stand."""
    near = rng.choice((64, 512, 4096, len(data)))
    at = rng.randrange(min(near, len(data)) or 1)
    return at if rng.random() < 0.7 else max(0, len(data) - 1 - at)


def beside_a_word(rng: random.Random, data: bytes) -> int:
    """Where a size may stand: just before or behind something that looks like a name."""
    words = list(WORD.finditer(data[:16_384])) + list(WORD.finditer(data, max(0, len(data) - 1024)))
    return max(0, rng.choice(words).start() + rng.choice((-4, 4, 4, 4, 8, 12))) if words else place(rng, data)


def mutate(rng: random.Random, data: bytes, others: Sequence[Source]) -> bytes:
    """One to four changes such as broken disks, broken programs and attackers make."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, kind = place(rng, data), rng.randrange(10)
        length = rng.choice((1, 2, 4, 10, 128, 1000))
        if kind == 0:  # a bit
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] if data else data
        elif kind == 1:
            data = data[:at] + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))]) + data[at + 1 :]
        elif kind in (2, 3):  # a size
            at, width = beside_a_word(rng, data), rng.choice((2, 3, 4, 4, 8))
            old = int.from_bytes(data[at : at + width], "big")
            value = rng.choice(
                (0, 1, old + 1, old - 1, old * 2, len(data), len(data) - at, 0x7FFFFFFF, (1 << 8 * width) - 1)
            )
            number = (value % (1 << 8 * width)).to_bytes(width, rng.choice(("big", "little")))
            data = data[:at] + number + data[at + width :]
        elif kind == 4:
            data = data[:at]
        elif kind == 5:
            data = data[:at] + data[at + length :]
        elif kind == 6:
            data = data[:at] + data[at : at + length] + data[at:]
        elif kind == 7:
            data = data[:at] + (bytes(length) if rng.random() < 0.5 else rng.randbytes(length)) + data[at:]
        else:  # a piece of another file: its start, its end, or from anywhere
            other = rng.choice(others).data
            start = rng.choice((0, max(0, len(other) - 128), place(rng, other)))
            piece = other[start : start + rng.choice((10, 128, 1000, 5000))]
            data = (piece + data, data + piece, data[:at] + piece + data[at + len(piece) * (kind == 9) :])[
                rng.randrange(3)
            ]
    return repair(data) if rng.random() < 0.5 else data


def repair(data: bytes) -> bytes:
    """Make the outermost size or the page checksums right again, so that deeper layers are reached."""
    if data[:4] in (b"RIFF", b"FORM") and len(data) >= 8:
        return data[:4] + (len(data) - 8).to_bytes(4, "little" if data[:4] == b"RIFF" else "big") + data[8:]
    if data[:4] == b"DSD " and len(data) >= 28:
        return data[:12] + len(data).to_bytes(8, "little") + data[20:]
    if data[:4] != b"OggS":
        return data
    out, file = b"", io.BytesIO(data)
    with contextlib.suppress(EOFError, mutagen.ogg.error):
        while True:
            page = mutagen.ogg.OggPage(file)
            out += page.write()
    return out + data[len(out) :]


# --- one case ---------------------------------------------------------------------------------------------------------


class Failed(Exception):
    """A promise that did not hold."""


class Case:
    """A mutated file and the child it goes through."""

    def __init__(self, worker: Worker, path: Path, counts: Counter[str], reasons: Counter[str]) -> None:
        self.worker, self.path, self.counts, self.reasons = worker, path, counts, reasons

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        try:
            return self.worker.call(op, str(self.path).encode(), **arguments)
        except FileError as error:
            if DEATH.search(error.reason):
                self.counts["child died"] += 1
                self.reasons[f"DIED in {op}: {error.reason}"] += 1
            elif found := UNEXPECTED.search(error.reason):
                self.reasons[f"UNEXPECTED {found[1]} in {op}: {error.reason[:120]}"] += 1
            raise

    def inspect(self) -> dict[str, Any] | None:
        try:
            return self.call("inspect")
        except FileError:
            return None

    def sound(self) -> tuple[str, int] | None:
        """Digest and number of all samples, or None where FFmpeg does not get to the end."""
        total, count = hashlib.sha256(), 0
        try:
            for block in self.worker.decode(str(self.path).encode(), sample_rate_hz=44_100):
                total.update(block.tobytes())
                count += len(block)
        except ReadError as error:
            if DEATH.search(error.reason):
                self.reasons[f"DIED in decode: {error.reason}"] += 1
            return None
        except FileError:
            return None
        return total.hexdigest(), count

    def write(self, container: str, edit: dict[str, Any] | None) -> Prepared:
        data = self.path.read_bytes()
        try:
            prepared = Prepared.from_json(
                self.call("prepare_write", container=container, edit=edit, preserve_mtime=False), str(self.path)
            )
        finally:
            if self.path.read_bytes() != data:
                raise Failed("the file itself was touched before the rename")
        commit(prepared, intend=lambda _: 1, done=lambda _: None, drop=lambda *_: None)
        return prepared

    def run(self, data: bytes) -> str:
        """Written, refused or unreadable; raises Failed."""
        self.path.write_bytes(data)
        try:
            read = self.call("read_tags")
        except FileError:
            return "unreadable"
        before, sound = self.inspect(), None
        if before is not None:
            sound = self.sound()
        try:
            written = self.write(read["container"], EDIT)
        except (WriteRefusedError, UnsupportedError) as error:
            self.reasons[re.sub(r"\d[\d,]*", "N", re.sub(r"'.*?'", "'...'", error.reason))[:70]] += 1
            return "refused"
        except FileError:
            return "unreadable"
        self.compare("after the write", before, read, sound, genre=False)
        try:
            undone = self.write(read["container"], None)
        except FileError as error:
            raise Failed(f"what was written cannot be undone: {error.reason}") from error
        if written.evidence["audio_sha256"] != undone.evidence["audio_sha256"]:
            raise Failed("the audio identity changed between write and undo")
        if self.path.read_bytes() == data:
            self.counts["undone byte for byte"] += 1
        else:
            self.compare("after the undo", before, read, sound, genre=True)
        return "written"

    def compare(
        self,
        when: str,
        before: dict[str, Any] | None,
        read: dict[str, Any],
        sound: tuple[str, int] | None,
        *,
        genre: bool,
    ) -> None:
        """Identity, samples, properties and tags against those of before."""
        now = self.call("read_tags")
        changed = [k for k, v in read["tags"].items() if v != now["tags"][k] and (genre or k not in OWN)]
        if changed or now["container"] != read["container"]:
            raise Failed(f"{when} other tags read differently: {changed or now['container']}")
        if before is None:
            return
        after = self.inspect()
        if after is None:
            raise Failed(f"{when} the file is unreadable")
        if after["audio_sha256"] != before["audio_sha256"]:
            raise Failed(f"{when} the audio identity differs")
        if {**after["audio"], "duration_s": 0} != {**before["audio"], "duration_s": 0}:
            raise Failed(f"{when} FFmpeg sees {after['audio']} instead of {before['audio']}")
        if sound is not None:
            self.counts["decoded"] += not genre
            if (heard := self.sound()) != sound and not (before["container"] in TAGS_BEHIND and self.reads_on(sound)):
                raise Failed(f"{when} FFmpeg decodes other samples ({heard and heard[1]} and {sound[1]})")

    def reads_on(self, sound: tuple[str, int]) -> bool:
        """Whether FFmpeg reads any bytes after a damaged last frame as part of it: then the change is not ours."""
        whole = self.path.read_bytes()
        marks = [
            at
            for at in (whole.find(b"APETAGEX"), len(whole) - 128 if whole[-128:].startswith(b"TAG") else -1)
            if at >= 0
        ]
        at = min(marks, default=len(whole))
        try:
            junk = (bytes(range(1, 256)), bytes(4096), b"A tag. " * 99)
            inside = (random.Random(number).randbytes(300) for number in range(40))  # in place of most of the tag
            variants = [whole[:at] + some + whole[at:] for some in junk] + [whole[: at + 26] + some for some in inside]
            for variant in variants:
                self.path.write_bytes(variant)
                if self.sound() != sound:
                    return True
            return False
        finally:
            self.path.write_bytes(whole)


class Fuzzer:
    """All cases of one seed."""

    def __init__(self, sources: Sequence[Source], seed: int, keep: Path | None = None) -> None:
        self.seed, self.keep, self.result = seed, keep, Result()
        self.by_container: dict[str, list[Source]] = {}
        for source in sources:
            self.by_container.setdefault(source.container, []).append(source)
        self.sources = sources

    def mutated(self, number: int) -> tuple[Source, bytes]:
        rng = random.Random(f"{self.seed}:{number}")
        names = sorted(self.by_container)
        source = rng.choice(self.by_container[names[number % len(names)]])
        return source, mutate(rng, source.data, self.sources)

    def run(self, numbers: Sequence[int], folder: Path) -> None:
        """These cases, with a child of their own."""
        worker = Worker(LIMITS, stall_limit_s=STALL_LIMIT_S)
        try:
            for number in numbers:
                self._run_one(worker, number, folder)
        finally:
            worker.close()

    def _run_one(self, worker: Worker, number: int, folder: Path) -> None:
        source, data = self.mutated(number)
        path = folder / f"{number}"
        result, counts = self.result, self.result.counts.setdefault(source.container, Counter())
        counts["cases"] += 1
        reader = worker._start().pid
        begin_peak(reader)
        started = time.monotonic()
        try:
            counts[Case(worker, path, counts, result.reasons).run(data)] += 1
        except (Failed, FileError, OSError) as error:
            repeat = f"--seed {self.seed} --start {number} --count 1"
            result.failures.append(f"case {number} ({source.container}, {source.name}; {repeat}): {error}")
            if self.keep:
                self.keep.mkdir(parents=True, exist_ok=True)
                (self.keep / f"{number}.{source.container}").write_bytes(data)
        result.slowest = max(result.slowest, (time.monotonic() - started, number))
        with contextlib.suppress(OSError):  # it died, which is counted
            result.largest = max(result.largest, (peak_bytes(reader), number))
        path.unlink(missing_ok=True)
        if left := [p.name for p in folder.iterdir()]:
            result.failures.append(f"case {number}: {left} stayed behind")
            for name in left:
                (folder / name).unlink()


def main() -> int:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("count", 20_000), ("seed", 1), ("start", 0), ("jobs", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.folder) as temp:
        (top := Path(temp, "sources")).mkdir()
        fuzzer = Fuzzer([*fixture_sources(), *synthesised_sources(top)], options.seed, options.keep)
        numbers = range(options.start, options.start + options.count)
        print(
            f"seed {options.seed}, cases {numbers.start} to {numbers.stop - 1}, {len(fuzzer.sources)} sources",
            flush=True,
        )
        folders = [Path(temp, f"job{job}") for job in range(options.jobs)]
        for folder in folders:
            folder.mkdir()
        with ThreadPoolExecutor(options.jobs) as pool:
            for done in [
                pool.submit(fuzzer.run, numbers[job :: options.jobs], folder) for job, folder in enumerate(folders)
            ]:
                done.result()
    result = fuzzer.result
    print(result.table())
    for reason, count in result.reasons.most_common(40):
        print(f"{count:7,}  {reason}")
    print("\n".join(result.failures))
    print(f"longest case: {result.slowest[0]:.2f} s (case {result.slowest[1]})")
    print(f"most memory of the reader: {result.largest[0] / 1e6:.0f} MB (case {result.largest[1]})")
    print(f"{len(result.failures)} failures, {time.monotonic() - started:.0f} s")
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
