"""How much faster a scan is on a cluster, and what bounds it.

    python -m tests.benchmarks.bench_cluster ceiling [--files 20000] [--workers 2] [--folder /tmp]
    python -m tests.benchmarks.bench_cluster simulated [--cost 0.37] [--workers 1,2,4,8,16] [--files-each 24]
    python -m tests.benchmarks.bench_cluster real [--files 120] [--seconds 60]

ceiling: workers that answer at once with results of the usual size (a vector of 3,840 numbers and its trajectory): how
many recordings a second the coordinator stores, on a cluster and with an executor in its own process that answers at
once (the library alone); each without and with a head of twelve labels and everything that is measured beside the
genre. Map, duplicates and index come after that and are not counted. simulated: one reader a worker, every file costs
so many seconds of sleep in its decoding: efficiency is the rate of N workers over N times that of one. real: real
files, the encoder rhythm, one and two workers of one thread, against a local scan with one and two jobs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from indexer.cluster import answers
from indexer.config import Settings
from indexer.encoders.load import built_in_info
from indexer.files.audio.identity import Stat
from indexer.heads.linear import LinearHead
from indexer.listen.executor import Embedded, Engine
from indexer.scan.run import Scan
from tests.benchmarks.machine import machine
from tests.helpers.clusters import DaskCluster, instant, usual
from tests.helpers.synth import write_audio

WIDTH = 3840
LABELS = (
    "ambient", "breakbeat", "disco", "downtempo", "drum and bass", "dubstep", "electro", "garage", "hardcore", "house",
    "techno", "trance",
)  # fmt: skip


class Silent:
    def begin(self, step: str, files: int, size_bytes: int) -> None: ...

    def advance(self, path: str, outcome: str) -> None: ...

    def step(self, step: str, done: int, total: int) -> None: ...

    def problem(self, path: str, reason: str) -> None:
        print(path, reason)


class Instant:
    """An executor that answers at once, in this process."""

    limit = 512

    def __init__(self, *, analysed: bool) -> None:
        self._analysed = analysed

    def inspect(self, path: bytes, stat: Stat) -> "Future[dict]":
        future = instant("inspect", path, stat.size, stat.mtime_ns, width=WIDTH, analysed=False)
        future.result()["stat"] |= {"dev": stat.dev, "ino": stat.ino}
        return future

    def embed(self, path: bytes, stat: Stat, part: object, **how: bool) -> "Future[Embedded]":
        return instant("embed", path, 0, 0, width=WIDTH, analysed=self._analysed)

    def engine(self) -> Engine:
        return Engine("cpu", "fp64", "nothing")

    def load(self) -> dict[str, float]:
        return {}

    def news(self) -> list:
        return []

    def workers(self) -> list:
        return []

    def close(self) -> None: ...


def scan(
    folder: Path,
    music: Path,
    cluster: str | None = None,
    executor: object = None,
    jobs: int = 0,
    head: Path | None = None,
) -> tuple[float, float, dict]:
    """(wall seconds, CPU seconds of this process, the scan's JSON) of a new library; no tag is written."""
    db = folder / f"{time.monotonic_ns()}.db"
    settings = Settings(
        db=db, models=folder / "models", encoder="rhythm", cluster=cluster, jobs=jobs, head=head and str(head)
    )
    running = Scan(settings, Silent())
    if executor:
        running._executor = lambda *_: executor
    wall, cpu = time.perf_counter(), time.process_time()
    found = running.run([music], write_tags=False).to_json()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    for path in folder.glob(f"{db.name}*"):
        path.unlink()
    return wall, cpu, found


def a_head(folder: Path) -> Path:
    """A head for the encoder that the workers load, but for vectors as wide as M2D's."""
    weight = np.random.default_rng(1).standard_normal((len(LABELS), WIDTH)).astype(np.float32) / 1000
    bias = np.zeros(len(LABELS), np.float32)
    path = folder / "head.safetensors"
    LinearHead("made", built_in_info("rhythm").encoder_id, LABELS, 0.5, weight, bias).save(path)
    return path


def make_files(music: Path, count: int) -> None:
    for n in range(count):
        folder = music / f"{n // 1000:04}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{n:07}.mp3").write_bytes(b"x")


def ready(cluster: DaskCluster, count: int) -> None:
    """Wait until all workers are admitted, so that neither their start nor their loading is measured."""
    env = {**os.environ, "INDEXER_DB": str(cluster.folder / "none.db"), "INDEXER_ENCODER": "rhythm"}
    while True:
        out = subprocess.run(
            [sys.executable, "-m", "indexer", "cluster", "check", "--cluster", cluster.address, "--json"],
            capture_output=True,
            text=True,
            env=env,
            check=False,
        )
        if out.stdout and json.loads(out.stdout)["agree"] == count:
            return
        time.sleep(1)


def ceiling(args: argparse.Namespace) -> None:
    print(machine())
    Scan._place = lambda *_: None
    embedded = answers._embedded
    answers._embedded = lambda value, _widths: embedded(value, (WIDTH, 0))
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        make_files(folder / "music", args.files)
        head = a_head(folder)
        usual(WIDTH)
        for analysed in (False, True):
            for label, cluster_size in (("in this process", 0), ("on the cluster", args.workers)):
                how = {"head": head if analysed else None}
                if not cluster_size:
                    wall, cpu, found = scan(folder, folder / "music", executor=Instant(analysed=analysed), **how)
                else:
                    bend = {"instant": WIDTH, "analysed": analysed}
                    with DaskCluster(folder / f"cluster{analysed}", cluster_size, bend=bend) as cluster:
                        ready(cluster, cluster_size)
                        wall, cpu, found = scan(folder, folder / "music", cluster.address, **how)
                assert found["embedded"] == args.files, found
                print(
                    f"{label}{', with all that is measured and a head' if analysed else ''}:"
                    f" {args.files:,} recordings in {wall:.1f} s: {args.files / wall:,.0f} a second stored;"
                    f" CPU of the coordinator {cpu:.1f} s"
                    f" ({args.files / cpu:,.0f} a second of CPU); busy {found['busy']}",
                    flush=True,
                )


def simulated(args: argparse.Namespace) -> None:
    alone = None
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        for workers in map(int, args.workers.split(",")):
            count = workers * args.files_each
            music = folder / f"music{workers}"
            make_files(music, count)
            with DaskCluster(
                folder / f"cluster{workers}", workers, bend={"instant": WIDTH, "decode_s": args.cost}, INDEXER_JOBS="1"
            ) as cluster:
                ready(cluster, workers)
                wall, _, found = scan(folder, music, cluster.address)
            assert found["embedded"] == count, found
            rate = count / wall
            alone = alone or rate / workers
            print(
                f"{workers:3} workers: {count:4} files of {args.cost} s in {wall:6.1f} s, {rate:6.2f} a second,"
                f" efficiency {rate / workers / alone:.0%} of one worker's,"
                f" {rate * args.cost / workers:.0%} of the cost alone;"
                f" files by worker {sorted(w['embedded'] for w in found['workers'])}",
                flush=True,
            )


def real(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        (folder / "music").mkdir()
        for n in range(args.files):
            write_audio(folder / "music" / f"{n:03}.mp3", "mp3", args.seconds, seed=n)
        for jobs in (1, 2):
            wall, _, found = scan(folder, folder / "music", jobs=jobs)
            print(
                f"local, {jobs} jobs: {args.files / wall:.2f} files a second,"
                f" {found['audio_s'] / wall:.0f} times real time; busy {found['busy']}",
                flush=True,
            )
            with DaskCluster(folder / f"cluster{jobs}", jobs, INDEXER_JOBS="1") as cluster:
                ready(cluster, jobs)
                wall, _, found = scan(folder, folder / "music", cluster.address)
            print(
                f"{jobs} workers of one reader: {args.files / wall:.2f} files a second,"
                f" {found['audio_s'] / wall:.0f} times real time; busy {found['busy']}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ceiling", "simulated", "real"])
    parser.add_argument("--files", type=int)
    parser.add_argument("--workers")
    parser.add_argument("--cost", type=float, default=0.37)
    parser.add_argument("--files-each", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--folder")
    args = parser.parse_args()
    if args.what == "ceiling":
        args.files, args.workers = args.files or 20_000, int(args.workers or 2)
        ceiling(args)
    elif args.what == "simulated":
        args.workers = args.workers or "1,2,4,8,16"
        simulated(args)
    else:
        args.files = args.files or 60
        real(args)


if __name__ == "__main__":
    main()
