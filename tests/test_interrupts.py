"""Ctrl-C at any moment: one line and exit code 130, and no word of the processes that were started."""

import os
import signal
import subprocess
import sys

import pytest

from indexer.config import load_settings
from indexer.files.children.limits import Limits
from indexer.files.children.start import without_interrupts
from indexer.files.children.worker import Worker
from indexer.library import apart
from indexer.watch.runner_handle import RunnerHandle
from tests.helpers.synth import write_audio

INTERRUPT = "import os, signal\ndef interrupt(*_): os.kill(os.getpid(), signal.SIGINT)\n"
RUN = "from indexer.__main__ import main\nmain()\n"


@pytest.mark.parametrize(
    ("before", "code", "said"),
    [
        pytest.param(
            "import sys\nclass Finder:\n"
            "    def find_spec(self, name, *_):\n"
            "        try:\n            if name == 'indexer.cli.learn': interrupt()\n"
            "        except KeyboardInterrupt: pass  # as a callback of importlib loses it\n"
            "sys.meta_path.insert(0, Finder())\n",
            130,
            "indexer: interrupted\n",
            id="while the commands are imported",
        ),
        pytest.param(
            "import click\nclick.Group.parse_args = interrupt\n",
            130,
            "indexer: interrupted\n",
            id="while the arguments are parsed",
        ),
        pytest.param(
            "import atexit\natexit.register(interrupt)\n", -signal.SIGINT, "", id="when the command has ended"
        ),
    ],
)
def test_an_interrupt_is_one_line_whenever_it_comes(tmp_path, before, code, said):
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPT + before + RUN, "models", "list"],
        env={**os.environ, "INDEXER_MODELS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (code, said)


def is_blocked(pid: int) -> bool:
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        mask = next(line for line in status if line.startswith("SigBlk:"))
    return bool(int(mask.split()[1], 16) >> (signal.SIGINT - 1) & 1)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks /proc")
def test_no_process_of_ours_hears_it(tmp_path, quick_cli):
    path = write_audio(tmp_path / "a", "flac", 0.3)
    reader = Worker(Limits(60.0, 60.0))
    reader.call("read_tags", os.fsencode(path))
    query = apart._Process()
    runner = RunnerHandle(load_settings(None, {}, quick_cli.environ))
    try:
        assert [is_blocked(process.pid) for process in (reader._child, query._process, runner._process)] == 3 * [True]
        assert not is_blocked(os.getpid())
    finally:
        reader.kill()
        query.end()
        runner.kill()


def test_a_process_that_is_still_starting_does_not_hear_it_either():
    program = "import time\ntime.sleep(0.2)\nprint('there')"
    with without_interrupts():
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("there\n", "")
