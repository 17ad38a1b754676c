"""A real Dask cluster on loopback, in processes of its own, whose workers can be made to fail.

Loaded by a worker (`dask worker --preload`) this module changes its sessions by CLUSTER_TEST: {"delay_s": before every
file, "kill": name of a file that ends the worker, "instant": answers without reading (its value: how many numbers a
vector has), "decode_s": after so long a sleep in a reader, "lies": {name of a worker: what it answers instead of the
truth}}.
"""

import functools
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from indexer.encoders.trajectory import Trajectory

if TYPE_CHECKING:
    import distributed

    from indexer.analysis.analyser import Analysis

REPOSITORY = Path(__file__).parents[2]
LIMIT_S = 60.0


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class DaskCluster:
    """A scheduler and its workers; a context manager that ends them."""

    def __init__(
        self,
        folder: Path,
        workers: int,
        *,
        nanny: bool = False,
        protocol: str = "tcp",
        security: tuple[str, ...] = (),
        bend: dict | None = None,
        options: tuple[str, ...] = (),
        hosts: "Hosts | None" = None,
        **environ: str,
    ) -> None:
        """``hosts``: the scheduler on its hub, every worker on a host of its own."""
        self.folder = folder
        self._hosts = hosts
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.address = f"{protocol}://{hosts.address('scheduler') if hosts else '127.0.0.1'}:{self.port}"
        self.environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
            "HOME": str(folder),
            "CLUSTER_TEST": json.dumps(bend or {}),
            "INDEXER_MODELS": str(folder / "models"),
            **environ,
        }
        self._security = security
        self._options = (
            *options,
            *(() if nanny else ("--no-nanny",)),
            *(("--preload", "tests.helpers.clusters") if bend else ()),
        )
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.start_scheduler()
        for n in range(workers):
            self.start_worker(f"w{n}")

    def start_scheduler(self) -> None:
        self.scheduler = self._process(
            "scheduler", "--host", f"{self.address.rpartition(':')[0]}", "--port", str(self.port), name="scheduler"
        )

    def start_worker(self, name: str, *options: str) -> None:
        self.workers[name] = self._process(
            "worker",
            self.address,
            "--nthreads",
            "1",
            "--name",
            name,
            "--local-directory",
            str(self.folder / name),
            "--host",
            self._hosts.address(name) if self._hosts else "127.0.0.1",
            *self._options,
            *options,
            name=name,
        )

    def _process(self, what: str, *arguments: str, name: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [
                    *(self._hosts.command(name) if self._hosts else ()),
                    sys.executable,
                    "-m",
                    f"distributed.cli.dask_{what}",
                    "--no-dashboard",
                    *arguments,
                    *self._security,
                ],
                stdout=log,
                stderr=log,
                env=self.environ,
                start_new_session=True,
                cwd=REPOSITORY,
            )

    def worker_pids(self) -> list[int]:
        """Of the processes that do the work: below a nanny its child."""
        return [child for process in self.workers.values() for child in (children(process.pid) or [process.pid])]

    def kill_worker(self, name: str) -> None:
        """The one that works; a nanny, if there is one, starts another."""
        process = self.workers[name]
        for pid in children(process.pid) if "--no-nanny" not in self._options else [process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> "DaskCluster":
        return self

    def __exit__(self, *exc: object) -> None:
        for process in [*self.workers.values(), self.scheduler]:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Hosts:
    """Hosts of their own in network namespaces, wired to a hub; a context manager. Needs root."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._tag = f"ix{os.getpid() % 100_000}"

    def address(self, name: str) -> str:
        """The address of a host; any other name is on the hub."""
        return f"10.77.0.{self._names.index(name) + 2 if name in self._names else 1}"

    def command(self, name: str) -> list[str]:
        """What to put before a command that is to run there."""
        return ["ip", "netns", "exec", self._space(name)]

    def unplug(self, name: str) -> None:
        """Take a host's link down at the hub; the other hosts are not told."""
        self._ip("-n", self._space("hub"), "link", "set", f"to-{name}", "down")

    def __enter__(self) -> "Hosts":
        for name in ("hub", *self._names):
            self._ip("netns", "add", self._space(name))
            self._ip("-n", self._space(name), "link", "set", "lo", "up")
        hub = self._space("hub")
        self._ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        self._ip("-n", hub, "addr", "add", f"{self.address('hub')}/24", "dev", "bridge")
        self._ip("-n", hub, "link", "set", "bridge", "up")
        for name in self._names:
            space = self._space(name)
            self._ip("-n", hub, "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth", "netns", space)
            self._ip("-n", hub, "link", "set", f"to-{name}", "master", "bridge", "up")
            self._ip("-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth")
            self._ip("-n", space, "link", "set", "eth", "up")
        return self

    def __exit__(self, *exc: object) -> None:
        for name in (*self._names, "hub"):
            with suppress(OSError, subprocess.CalledProcessError):
                self._ip("netns", "del", self._space(name))

    def _space(self, name: str) -> str:
        return f"{self._tag}-{name if name in self._names else 'hub'}"

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)


def children(pid: int) -> list[int]:
    """Dask workers that a nanny started (not multiprocessing's helpers)."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) == pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def until(condition, limit_s: float = LIMIT_S) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "it did not come true"
        time.sleep(0.05)


def dask_setup(worker: "distributed.Worker") -> None:
    """Called by a worker that loads this module."""
    from indexer.cluster.worker import Item, Session

    bend = json.loads(os.environ["CLUSTER_TEST"])
    if lie := bend.get("lies", {}).get(worker.name):
        tell(lie)
    begin = Session.begin

    def bent(self: Session, op: str, item: Item) -> "Future[object]":
        if bend.get("kill", "\0").encode() in item[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        if bend.get("instant"):
            analysed = item[4] and bool(bend.get("analysed"))
            answer = partial(instant, op, item[0], item[1], item[2], width=bend["instant"], analysed=analysed)
            if op == "inspect" or not bend.get("decode_s"):
                return answer()
            return self._readers.submit(lambda _worker: time.sleep(bend["decode_s"]) or answer().result())
        time.sleep(bend.get("delay_s", 0.0))
        return begin(self, op, item)

    Session.begin = bent  # type: ignore[method-assign]


class ExitOnArrivalError(Exception):
    """An error that is SystemExit once it is unpickled."""

    def __reduce__(self) -> tuple:
        return SystemExit, (3,)


def tell(lie: str) -> None:
    """Have this worker lie from now on."""
    from indexer.cluster import wire
    from indexer.cluster import worker as ours

    prove, work = ours.prove, ours.work

    def lying_proof(wanted: dict) -> object:
        return 5 if lie == "no proof" else prove(wanted)

    def lying_work(token: str, op: str, items: bytes) -> object:
        if lie == "exit":
            raise ExitOnArrivalError
        if lie == "no bytes":
            return {"outcomes": 5}
        found = wire.unpack(work(token, op, items))
        if lie == "too few":
            found["outcomes"].pop()
        if lie == "swapped":
            for one in found["outcomes"]:
                one[0] += b"x"
        return wire.pack(found)

    ours.prove, ours.work = lying_proof, lying_work  # type: ignore[assignment]


SEGMENTS = 200  # of a trajectory


@functools.cache
def usual(width: int) -> "tuple[bytes, Analysis]":
    """The trajectory of a vector of so many numbers, and what is measured in five minutes of music."""
    from indexer.analysis.analyser import Analyser
    from tests.helpers.synth import music

    channels = np.tile(music(60.0).T, 5)
    analyser = Analyser()
    for second in np.split(channels, channels.shape[1] // 44_100, axis=1):
        analyser.hear(second.mean(axis=0), second, 44_100)
    course = Trajectory(6.0, np.ones((SEGMENTS, 8), np.float32), np.ones((8, width), np.float32))
    return course.to_bytes(), analyser.finish()


@functools.cache
def usual_tags() -> dict:
    from indexer.files.tags.read import Tags

    return Tags(artist="somebody", album="something").to_json()


def instant(op: str, path: bytes, size: int, mtime_ns: int, *, width: int, analysed: bool) -> "Future[object]":
    """An answer of the usual size, without reading anything. ``width``: numbers in a vector, which the path decides."""
    from indexer.listen.executor import Embedded

    digest = hashlib.sha256(path)
    future: Future[object] = Future()
    if op == "inspect":
        future.set_result(
            {
                "stat": {"dev": 0, "ino": 0, "size": size, "mtime_ns": mtime_ns},
                "container": "mp3",
                "audio_sha256": digest.hexdigest(),
                "damage": None,
                "tags": {**usual_tags(), "title": os.fsdecode(path)[-20:]},
                "audio": {"codec": "mp3", "sample_rate_hz": 44_100, "channels": 2, "duration_s": 300.0},
            }
        )
    else:
        trajectory, analysis = usual(width)
        vector = np.frombuffer(digest.digest(), np.uint8).astype("<f2").tobytes() + bytes(2 * (width - 32))
        future.set_result(Embedded(vector, 50, trajectory, 300.0, analysis=analysis if analysed else None))
    return future
