"""The daemon: time until it watches, memory, latency, a burst while it was stopped, and its cost while nothing happens.

    python -m tests.benchmarks.bench_watch [FILES] [BURST] [IDLE_S]      (default: 20000 7000 120)

The existing files are known to the library already, as after a first scan, so this is a daemon's start on any ordinary
day. The burst is copies of one short recording, so that it measures the watching and not the encoder.
"""

import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from indexer.library.store import Store
from tests.benchmarks.bench_rescan import build, fill
from tests.helpers.cli import Cli
from tests.helpers.daemons import Watching
from tests.helpers.synth import write_audio

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(pid: int) -> float:
    """Resident memory now."""
    return (
        int(
            next(
                line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")
            ).split()[1]
        )
        / 1024
    )


def waited(watch: Watching, condition) -> float:
    """Seconds until something is true."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > 600:
            raise SystemExit("not within 600 s\n" + "\n".join(watch.lines[-20:]))
        time.sleep(0.01)
    return time.monotonic() - started


def main(files: int, burst: int, idle_s: float) -> None:
    """Build, watch, measure."""
    with tempfile.TemporaryDirectory() as folder:
        cli, music, elsewhere = Cli(Path(folder, "state"), "rhythm"), Path(folder, "music"), Path(folder, "elsewhere")
        for made in (cli.folder, music, elsewhere):
            made.mkdir()
        build(music, files)
        with Store(cli.db) as store:
            fill(store, music)
        with Watching(cli, music, verbose=False, settle_s=2, unload_after_s=5) as watch:
            print(
                f"{files:,} known files in {files // 12:,} folders:"
                f" watching and compared after {waited(watch, watch.idle):.1f} s,"
                f" daemon {rss_mb(watch.process.pid):.0f} MB"
            )
            latencies = []
            for n in range(10):
                new = write_audio(elsewhere / f"{n}", "flac", 1.0, seed=n)
                target = music / f"new {n}.flac"
                shutil.move(new, target)
                latencies.append(waited(watch, lambda t=target: watch.states_of(t) == "ready"))
            print(
                f"a file moved in: {statistics.median(latencies):.1f} s ({min(latencies):.1f} to {max(latencies):.1f})"
                " to its row, of which 2 s are settle_s"
            )
            one = write_audio(elsewhere / "one", "flac", 1.0, seed=99)
            os.kill(watch.process.pid, signal.SIGSTOP)
            for n in range(burst):
                if n % 50 == 0:
                    (music / f"burst {n // 50}").mkdir()
                shutil.copyfile(one, music / f"burst {n // 50}" / f"{n}.flac")
            os.kill(watch.process.pid, signal.SIGCONT)
            count = "SELECT count(*) FROM files WHERE state = 'ready' AND path_text LIKE '%/burst %'"
            took_s = waited(watch, lambda: watch.rows(count) == [(burst,)])
            print(
                f"{burst:,} files while it was stopped: all {watch.rows(count)[0][0]:,} are rows"
                f" {took_s:.0f} s after it went on"
            )
            waited(watch, lambda: watch.idle() and not watch.runner_pids())
            before, started = cpu_s(watch.process.pid), time.monotonic()
            time.sleep(idle_s)
            share = (cpu_s(watch.process.pid) - before) / (time.monotonic() - started)
            print(
                f"idle for {idle_s:.0f} s: {share:.3%} of one core, {rss_mb(watch.process.pid):.0f} MB,"
                " no other process"
            )


if __name__ == "__main__":
    given = [float(argument) for argument in sys.argv[1:]]
    files, burst, idle_s = given + [20_000, 7_000, 120][len(given) :]
    main(int(files), int(burst), idle_s)
