"""Which exceptions mutagen, PyAV and soundfile raise over mutated real files, and that each ends as a reason.

    python -m tests.benchmarks.fuzz_reading [--count 20000] [--seed 1] [--start 0]

The sources and mutations are those of fuzz_tags. Each case is identified, its tags are read, its header probed and its
sound decoded, in this process, so that the exceptions can be seen. Two things must hold: nothing but a FileError leaves
any of these, and a file of a known container that decodes to its end is also identified and read. Prints the
exceptions by type and place, then the failures; the exit code is 1 where there are any.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from indexer.errors import FileError
from indexer.files.audio.decode import decode, probe
from indexer.files.audio.identity import sniff
from indexer.files.children.lenient import all_tags, identify
from indexer.files.containers import CONTAINERS
from indexer.files.tags import chunks, fields, read
from tests.benchmarks.fuzz_tags import Fuzzer, fixture_sources, synthesised_sources
from tests.helpers.peak import begin_peak, peak_bytes


@dataclass
class Inventory:
    """What was raised, by place and type, how often; and the cases that broke a promise."""

    raised: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    cases: int = 0
    decoded: int = 0
    unread: int = 0
    slowest: tuple[float, str] = (0.0, "")  # seconds, case
    largest: tuple[int, str] = (0, "")  # bytes of this process at most, case

    def take(self, name: str, path: Path) -> None:
        """Read one file in every way that a scan reads it."""
        self.cases += 1

        def attempt(what: str, action: Callable[[], Any]) -> Any:
            try:
                return action()
            except FileError as error:
                self.note(what, error)
                return error
            except Exception as error:
                self.failures.append(f"{name}: {what} raised {type(error).__name__}: {error}")
                return error

        def identity() -> object:
            with path.open("rb") as file:
                return identify(file, str(path))

        with path.open("rb") as file:
            container = sniff(file)
        found = {
            "identity": attempt("identity", identity),
            "tags": attempt("tags", lambda: all_tags(str(path), container)),
            "header": attempt("header", lambda: probe(path)),
        }
        if isinstance(found["tags"], read.Tags) and found["tags"].unread:
            self.unread += 1
        if isinstance(attempt("sound", lambda: sum(len(block) for block in decode(path))), int):
            self.decoded += 1
            self.failures += [
                f"{name} ({container}): it decodes, but not its {what}: {error.reason}"
                for what, error in found.items()
                if isinstance(error, FileError) and container in CONTAINERS
            ]

    def note(self, what: str, error: BaseException) -> None:
        """Count an exception, and those that led to it, under the library that raised each."""
        link: BaseException | None = error
        while link is not None:
            library = type(link).__module__.partition(".")[0]
            self.raised[what, f"{library}.{type(link).__name__}"] += 1
            link = link.__cause__ or link.__context__

    def watch_readers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count what the parsers of tags raise, which ``fields.attempt`` turns into a reason."""
        really = fields.attempt

        def attempt(reader: Callable[..., fields.Fields], *arguments: Any) -> fields.Fields:
            def watched(*inner: Any) -> fields.Fields:
                try:
                    return reader(*inner)
                except BaseException as error:
                    self.note("tags", error)
                    raise

            return really(watched, *arguments)

        for module in (fields, chunks, read):
            monkeypatch.setattr(module, "attempt", attempt)


def take_all(inventory: Inventory, fuzzer: Fuzzer, numbers: Sequence[int], folder: Path) -> None:
    """Take these cases of a fuzzer."""
    for number in numbers:
        source, data = fuzzer.mutated(number)
        path = folder / str(number)
        path.write_bytes(data)
        name = f"case {number} ({source.name})"
        begin_peak()
        started = time.monotonic()
        inventory.take(name, path)
        inventory.slowest = max(inventory.slowest, (time.monotonic() - started, name))
        inventory.largest = max(inventory.largest, (peak_bytes(), name))
        path.unlink()


def main() -> int:
    """Run, and print what was raised."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("count", 20_000), ("seed", 1), ("start", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    started, inventory = time.monotonic(), Inventory()
    with tempfile.TemporaryDirectory() as temp, pytest.MonkeyPatch.context() as monkeypatch:
        (top := Path(temp, "sources")).mkdir()
        fuzzer = Fuzzer([*fixture_sources(), *synthesised_sources(top)], options.seed)
        inventory.watch_readers(monkeypatch)
        print(f"seed {options.seed}, cases from {options.start}; --start N --count 1 repeats case N", flush=True)
        take_all(inventory, fuzzer, range(options.start, options.start + options.count), Path(temp))
    for (what, kind), count in sorted(inventory.raised.items(), key=lambda item: (item[0][0], -item[1])):
        print(f"{count:7,}  {what:9} {kind}")
    print("\n".join(inventory.failures))
    print(f"longest case: {inventory.slowest[0]:.2f} s, {inventory.slowest[1]}")
    print(f"most memory of the process: {inventory.largest[0] / 1e6:.0f} MB, {inventory.largest[1]}")
    print(
        f"{inventory.cases:,} cases, {inventory.decoded:,} decode, the tags of {inventory.unread:,} are unread;"
        f" {len(inventory.failures)} failures, {time.monotonic() - started:.0f} s"
    )
    return 1 if inventory.failures else 0


if __name__ == "__main__":
    sys.exit(main())
