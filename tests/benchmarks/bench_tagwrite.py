"""Tag writes against mutagen's own in-place save, in one run, alternating; and the memory that a 2 GB WAV takes.

    python -m tests.benchmarks.bench_tagwrite [--writes 20] [--rounds 5] [--folder FOLDER] [--no-large]

Ours is the whole protocol (copy, edit, compare, hash the audio, fsync, rename, fsync the folder) in this process;
mutagen's is opening the file, setting the genre and saving. Files of 30 s without genre, each written once a round.
Extra bytes are by how much the files grew: a first write leaves padding for the next. The WAV files are sparse and made
on the spot; their writes go through the real child, whose peak memory (anonymous and shared libraries, VmHWM) is read
from /proc.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mutagen
import mutagen.id3

from indexer.errors import FileError
from indexer.files.audio.identity import sniff
from indexer.files.children.worker import Worker
from indexer.files.tags.genre import GenreEdit
from indexer.files.tags.write import Prepared, commit, edit_to_json, prepare
from tests.helpers.limits import LIMITS
from tests.helpers.synth import CONTAINERS, write_audio

EDIT = GenreEdit(("Drum & Bass",), "drum and bass", 0.93, "linear@12345678")
SECONDS = 30.0
GIB = 1 << 30


def ours(path: Path, container: str) -> None:
    """One write as the program makes it, without the journal's rows."""
    prepared = prepare(str(path), container, EDIT)
    commit(prepared, intend=lambda _: 1, done=lambda _: None, drop=lambda *_: None)


def mutagens(path: Path, container: str) -> None:
    """The same genre with the usual library, in place."""
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    if isinstance(file.tags, mutagen.id3.ID3):
        file.tags.add(mutagen.id3.TCON(encoding=3, text=list(EDIT.genres)))
    else:
        file.tags[{"mp4": "\xa9gen", "asf": "WM/Genre"}.get(container, "Genre")] = list(EDIT.genres)
    file.save()


def timed(
    write: Callable[[Path, str], None], source: Path, folder: Path, container: str, writes: int
) -> tuple[float, int]:
    """Writes per second over fresh copies, and by how many bytes each file grew."""
    copies = [folder / str(n) for n in range(writes)]
    for copy in copies:
        shutil.copyfile(source, copy)
    os.sync()  # the copies' own blocks are not to be waited for by the first fsync
    started = time.perf_counter()
    for copy in copies:
        write(copy, container)
    elapsed = time.perf_counter() - started
    grown = copies[0].stat().st_size - source.stat().st_size
    for copy in copies:
        copy.unlink()
    return writes / elapsed, grown


def compare(folder: Path, writes: int, rounds: int) -> None:
    """A row a container."""
    print(
        "| container | file | ours, writes/s | mutagen in place, writes/s | mutagen / ours |"
        " ours grows by | mutagen grows by |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in CONTAINERS:
        if name == "aac":
            continue
        source = write_audio(folder / f"source-{name}", name, SECONDS)
        with source.open("rb") as file:
            container = sniff(file)
        mine, theirs, ratios = [], [], []
        for _ in range(rounds):
            own, own_bytes = timed(ours, source, folder, container, writes)
            plain, plain_bytes = timed(mutagens, source, folder, container, writes)
            mine.append(own)
            theirs.append(plain)
            ratios.append(plain / own)
        print(
            f"| {name} | {source.stat().st_size / 1e6:.1f} MB | {spread(mine, 0)} | {spread(theirs, 0)} |"
            f" {spread(ratios, 1)} | {own_bytes:+,} | {plain_bytes:+,} |",
            flush=True,
        )


def spread(values: list[float], digits: int) -> str:
    """Median (least to most)."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def sparse_wav(path: Path, audio_bytes: int, *, tag_first: bool) -> None:
    """A WAV of silence that takes no room on the disk; ``tag_first``: a small LIST INFO stands before the audio."""
    head = b"WAVEfmt \x10\0\0\0\1\0\2\0\x44\xac\0\0\x10\xb1\2\0\4\0\x10\0" + (
        b"LIST\x0e\0\0\0INFOINAM\2\0\0\0t\0" if tag_first else b""
    )
    with path.open("wb") as file:
        file.write(
            b"RIFF"
            + (len(head) + 8 + audio_bytes).to_bytes(4, "little")
            + head
            + b"data"
            + audio_bytes.to_bytes(4, "little")
        )
        file.truncate(file.tell() + audio_bytes)


def large(folder: Path) -> None:
    """Files around the limits of signed and unsigned 32 bits."""
    print("\n| WAV | tag | result | write, s | peak memory of the child |\n|---|---|---|---|---|")
    for size, tag_first in (
        (2 * GIB - 4096, False),
        (2 * GIB - 4096, True),
        (2 * GIB + 4096, False),
        (4 * GIB - 512, False),
    ):
        path = folder / "large.wav"
        sparse_wav(path, size, tag_first=tag_first)
        worker = Worker(LIMITS)
        started = time.perf_counter()
        try:
            answer = worker.call(
                "prepare_write",
                os.fsencode(path),
                container="wav",
                edit=edit_to_json(EDIT),
                preserve_mtime=False,
            )
            commit(Prepared.from_json(answer, str(path)), intend=lambda _: 1, done=lambda _: None, drop=lambda *_: None)
            result = "written"
        except FileError as error:
            result = error.reason
        elapsed = time.perf_counter() - started
        child = worker._child  # its peak memory is in its own /proc entry
        peak = (
            next(
                (
                    line.split()[1]
                    for line in Path(f"/proc/{child.pid}/status").read_text().splitlines()
                    if line.startswith("VmHWM")
                ),
                "0",
            )
            if child
            else "0"
        )
        worker.close()
        print(
            f"| {size:,} bytes of audio | {'before' if tag_first else 'behind'} | {result} | {elapsed:.1f} |"
            f" {int(peak) / 1024:.0f} MB |",
            flush=True,
        )
        path.unlink()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--writes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--no-large", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temp:
        compare(Path(temp), options.writes, options.rounds)
        if not options.no_large:
            large(Path(temp))


if __name__ == "__main__":
    main()
