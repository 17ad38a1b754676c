"""The moving line of long work, in a real terminal: it fits its width, and tells how long it takes."""

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from contextlib import closing
from pathlib import Path

import pytest

from indexer.cli import progress as module
from indexer.cli.progress import Progress
from tests.helpers.synth import write_audio


class Terminal:
    """A pseudo terminal of a width; ``lines`` is what was drawn on it, one after the other."""

    def __init__(self, columns):
        self._master, self.slave = os.openpty()
        self.resize(columns)

    def resize(self, columns):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read(self):
        os.set_blocking(self._master, False)
        found = b""
        try:
            while block := os.read(self._master, 1 << 16):
                found += block
        except OSError:  # nothing more, or nobody writes any longer
            pass
        return found.decode()

    def lines(self):
        return [line for line in re.split(r"\r\x1b\[K|\r\n", self.read()) if line]

    def close(self):
        os.close(self._master)
        os.close(self.slave)


@pytest.fixture
def now(monkeypatch):
    """The clock of the progress, in seconds; every look at it takes a second."""
    clock = [0.0]

    def monotonic():
        clock[0] += 1
        return clock[0]

    monkeypatch.setattr(module.time, "monotonic", monotonic)
    return clock


@pytest.mark.parametrize("columns", [20, 60, 80, 120, 300])
def test_the_line_fits_the_terminal_also_when_it_is_resized(now, columns):
    with closing(Terminal(columns)) as terminal, open(terminal.slave, "w", closefd=False) as out:
        progress = Progress(out=out)
        progress.tail = lambda: "; 8 workers: 1.0 1.0 1.0 1.0 1.0 1.0 1.0 1.0 a second"
        progress.begin("synthesising", 3)
        for n in range(9):  # more than were told
            progress.advance(f"/m/{n}.mp3", "written")
        drawn = terminal.lines()
        assert len(drawn) >= 3
        assert max(map(len, drawn)) < columns
        if columns == 300:
            assert drawn[0].startswith("synthesising [=")
            assert drawn[-1].startswith(f"synthesising [{'=' * module.BAR_COLUMNS}] 9/3 files")
        terminal.resize(40)
        progress.advance("/m/10.mp3", "written")
        assert max(map(len, terminal.lines())) < 40


def test_the_time_left_goes_by_bytes(now, tmp_path):
    (tmp_path / "small").write_bytes(b"x" * 100)
    (tmp_path / "large").write_bytes(b"x" * 900)
    with closing(Terminal(100)) as terminal, open(terminal.slave, "w", closefd=False) as out:
        progress = Progress(out=out)
        progress.begin("scanning", 2, 1000)
        now[0] += 8
        progress.advance(str(tmp_path / "small"), "embedded")
        assert "1/2 files" in (line := terminal.lines()[-1])
        assert "1:30 left" in line  # ten seconds for a tenth


def test_a_step_of_unknown_length_shows_where_it_is(now):
    with closing(Terminal(40)) as terminal, open(terminal.slave, "w", closefd=False) as out:
        progress = Progress(out=out)
        progress.begin("reading playlists:", 0)
        progress.at(Path("/mu\nsic"))
        progress.at(Path("/" + 50 * "x"))
        assert terminal.lines() == ["reading playlists: /mu\\nsic", f"reading playlists: /{19 * 'x'}"]
        progress.at(None)
        assert terminal.read() == "\r\x1b[K"


def test_a_step_begins_anew(now):
    with closing(Terminal(100)) as terminal, open(terminal.slave, "w", closefd=False) as out:
        progress = Progress(out=out)
        for step in ("synthesising", "scanning"):
            progress.begin(step, 10)
            progress.advance("/m/1.mp3", "done")
            assert terminal.lines()[-1].startswith(f"{step} [===  ")
            assert progress._done == 1


def test_a_scan_in_a_narrow_terminal(tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    for n in range(3):
        write_audio(folder / str(n), "wav", 2.0, seed=n)
    with closing(Terminal(60)) as terminal:
        command = [
            sys.executable,
            "-m",
            "indexer",
            "scan",
            folder,
            "--db",
            tmp_path / "library.db",
            "--encoder",
            "rhythm",
        ]
        done = subprocess.run(
            list(map(str, command)), stderr=terminal.slave, stdout=subprocess.PIPE, timeout=120, check=False
        )
        moving = [line for line in terminal.lines() if line.startswith("scanning")]
    assert done.returncode == 0
    assert moving
    assert max(map(len, moving)) < 60


def test_steps_without_files_tell_how_many_recordings_are_done(now):
    with closing(Terminal(100)) as terminal, open(terminal.slave, "w", closefd=False) as out:
        progress = Progress(out=out)
        for done in (0, 500):
            progress.step("hearing", done, 1000)
        assert terminal.lines()[-1].startswith(f"hearing [{'=' * 15}{' ' * 15}] 500/1,000 recordings, ")
        progress.step("comparing", 10, 1000)
        assert terminal.lines()[-1].startswith("comparing [  ")
        progress.begin("scanning", 10)
        progress.advance("/m/1.mp3", "done")
        assert "1/10 files" in terminal.lines()[-1]
