"""What is printed: no text of a file, head or worker moves the cursor, names the window or begins a line of its own."""

import io
import pickle
import re

import click.testing
import mutagen
import pytest

from indexer.cli import text
from indexer.cli.main import main
from indexer.cli.output import note, say, show
from indexer.cli.progress import Progress
from indexer.errors import ConfigError, ReaderDiedError, ReadError
from indexer.watch.daemon import speaker
from tests.helpers.synth import write_audio

EVIL = "a\x1b[2J\x1b]0;owned\x07\nFORGED line\r\x9b1A\x7f\u202e\u2028b"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029]")


def check(printed: str) -> None:
    """Only line ends, and none from a file."""
    assert CONTROL.findall(printed) == []
    assert not any(line.startswith("FORGED") for line in printed.splitlines())


@pytest.mark.parametrize("stream", ["out", "err"])
def test_a_line_is_one_line_and_moves_nothing(capsys, stream):
    (say if stream == "out" else note)(f"{EVIL}: and a byte \udcff")
    printed = getattr(capsys.readouterr(), stream)
    check(printed)
    assert printed.count("\n") == 1
    assert "\\x1b[2J" in printed
    assert "\\xff" in printed


def test_texts_of_a_result_are_escaped_and_its_lines_stay(capsys):
    found = {"path": EVIL, "genre": EVIL, "confidence": 0.5,
             "decided": False, "reason": EVIL, "second_genre": EVIL, "threshold": 0.6, "damage": None, "heard": None,
             "electronic": 0.5, "tempo_bpm": None, "key": None, "loudness_lufs": None, "lossy_suspect": None,
             "scores": {EVIL: 0.5, "house": 0.5}}  # fmt: skip
    show(found, text.classify_text, as_json=False)
    printed = capsys.readouterr().out
    check(printed)
    assert printed.count("\n") == 4
    show(found, text.classify_text, as_json=True)
    assert CONTROL.findall(capsys.readouterr().out.replace("\x7f", "")) == []


def test_what_a_worker_says_of_itself_is_escaped(capsys):
    worker = {"address": EVIL, "name": "w", "state": "ready", "device": EVIL, "precision": {EVIL: EVIL}, "engine": EVIL,
              "jobs": 1, "version": EVIL, "host": EVIL, "reason": None}  # fmt: skip
    found = {"cluster": "tcp://x:1", "encoder": EVIL, "precision": {}, "agree": 1,
             "workers": [worker, worker | {"state": "refused", "reason": EVIL}]}  # fmt: skip
    show(found, text.cluster_text, as_json=False)
    printed = capsys.readouterr().out
    check(printed)
    assert printed.count("\n") == 4


def test_progress_escapes_paths_reasons_and_lines():
    out = io.StringIO()
    progress = Progress(1, out)
    progress.begin("reading", 1)
    progress.advance(EVIL, EVIL)
    progress.problem(EVIL, EVIL)
    progress.line(EVIL)
    check(out.getvalue())
    assert out.getvalue().count("\n") == 3


def test_the_log_of_the_daemon_is_escaped(capsys):
    speaker(0)(EVIL, 0)
    printed = capsys.readouterr().err
    check(printed)
    assert printed.count("\n") == 1


def test_an_error_is_one_line_from_the_moment_it_is_made():
    for error in (ConfigError(EVIL), ReadError(EVIL.encode(), EVIL), ReadError(b"/m/\xff.mp3", EVIL)):
        check(str(error))
        assert "\n" not in str(error)
        str(error).encode()
    assert ReadError(b"/m/a", EVIL).reason == ReadError(b"/m/a", ReadError(b"/m/a", EVIL).reason).reason
    again = pickle.loads(pickle.dumps(ReaderDiedError(b"/m/\xff", EVIL, 2)))
    assert (again.path, again.deaths, str(again)) == ("/m/\udcff", 2, str(ReaderDiedError(b"/m/\xff", EVIL, 2)))


def test_no_command_prints_what_a_file_says_as_it_stands(quick_cli, tmp_path):
    """Name, title and genre of a file, and the box of a damaged one, reach the terminal through every command."""
    folder = tmp_path / "m"
    folder.mkdir()
    evil = folder / f"{EVIL}.flac"
    other = folder / "other.flac"
    for n, path in enumerate((evil, other)):
        write_audio(path, "flac", 2.0, seed=n)
        file = mutagen.File(path)
        file.tags["title"], file.tags["artist"] = EVIL, EVIL
        file.save()
    file = mutagen.File(evil)
    file.tags["genre"] = EVIL
    file.save()
    (folder / f"damaged{EVIL}.m4a").write_bytes(b"\0\0\0\x18ftypM4A \0\0\0\0M4A \0\0\0\0\0\0\0\x07\x1b[2J" + bytes(64))
    for command, code in (
        (("scan", folder, "-v"), 1), (("scan", folder, "--dry-run", "--force"), None), (("status",), 0),
        (("doctor", folder), None), (("classify", evil, other), 0), (("similar", evil), 0), (("similar", other), 0),
        (("tags", "history", other), 0), (("correct", evil, "techno"), None), (("suggest",), None),
        (("tags", "undo", evil, folder / f"none{EVIL}"), None), (("forget", folder, "--dry-run"), 0),
        (("relabel",), 0), (("similar", folder / "none\x1b[2J.flac"), 2), (("status", "--head", "x\x1b[2J"), None),
        (("similar", evil, other), 2), (("models", "info", "x\x1b[2J"), 2),
    ):  # fmt: skip
        result = click.testing.CliRunner().invoke(main, [str(a) for a in command], env=quick_cli.environ, color=True)
        assert result.exception is None or isinstance(result.exception, SystemExit), command
        assert code is None or result.exit_code == code, result.output
        check(result.output)
