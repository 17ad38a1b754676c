"""What runs inside a Dask worker: it proves that it agrees with the scan, then reads and embeds as this machine would.

Owns the proof and the sessions (readers, encoders) that it opens; everything else is the local executor's. The weights
come from this machine's own models folder, the number of readers from its own settings. Imported by name on workers:
what crosses the network is plain values. Knows neither database nor heads, and writes to no file.
"""

import os
import pickle
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import Any

import numpy as np

from indexer import __version__
from indexer.config import Settings, load_settings
from indexer.encoders.encoder import Encoder, Part, Variant
from indexer.errors import DeferredError, FileError, IndexerError, ModelError, ReaderDiedError
from indexer.files.audio.identity import Stat
from indexer.files.children.pool import Readers
from indexer.listen.executor import LocalExecutor
from indexer.models.choice import known, named, part_of
from indexer.wording import printable

UNUSED_S = 900.0  # after so long without work a session's encoder leaves the memory
PROBE_S = 13.0  # of the test signal: two units of the published models and a piece
CANNOT_OPEN = "cannot be opened by the worker"

Item = tuple[bytes, int, int, str | None]  # path as this machine sees it, size, mtime_ns, encoder id
_sessions: dict[str, "Session"] = {}  # by what was agreed
_lock = threading.Lock()


class Session:
    """Readers and encoders for all scans that want the same."""

    def __init__(self, jobs: int, parts: Mapping[str, Part]) -> None:
        self.token = uuid.uuid4().hex
        self.jobs = jobs
        self.used_s = time.monotonic()
        self._began_s = time.monotonic()
        self._parts = parts
        self._readers = Readers(jobs)
        self._executor = LocalExecutor(self._readers)
        self._lock = threading.Lock()  # the executor wants one caller at a time
        self.at_work = 0

    @property
    def limit(self) -> int:
        """So many files in flight keep it busy."""
        return self._executor.limit

    def encoder(self, encoder_id: str) -> Encoder:
        """The loaded encoder. Raises ModelError."""
        part = self._parts[encoder_id]
        with self._lock:
            encoder = self._executor.encoder(part)
        if Variant(part.units, encoder.precision == "int8").id_of(encoder.id) != encoder_id:
            raise ModelError(
                f"loaded {encoder.name} and got another encoder ({encoder.id[:12]}, not what {encoder_id[:12]} stands for)"
            )
        return encoder

    def probe(self, encoder_id: str) -> bytes:
        """What the encoder makes of the test signal: (width,) float32."""
        encoder = self.encoder(encoder_id)
        vector = (
            self._executor.embed_samples(probe_signal(encoder.sample_rate_hz), self._parts[encoder_id]).result().vector
        )
        return vector.astype("<f4").tobytes()

    def begin(self, op: str, item: Item) -> "Future[Any]":
        """Hand one file to the readers."""
        path, size, mtime_ns, encoder_id = item
        try:
            own = _look(path)
            if not same_content(own, Stat(0, 0, size, mtime_ns)):
                raise DeferredError(
                    path, "the worker sees another state of it: changed while it was read, or not the same file"
                )
            with self._lock:
                return (
                    self._executor.inspect(path, own)
                    if encoder_id is None or op == "inspect"
                    else self._executor.embed(path, own, self._parts[encoder_id])
                )
        except (IndexerError, OSError) as e:
            failed: Future[Any] = Future()
            failed.set_exception(e)
            return failed

    def busy(self) -> dict[str, float]:
        """Seconds so far: since its making, and of them of reading and encoding."""
        elapsed_s = time.monotonic() - self._began_s
        return {"elapsed": elapsed_s, **{part: share * elapsed_s for part, share in self._executor.load().items()}}

    def close(self) -> None:
        """Let go of children and encoders."""
        self._executor.close()
        self._readers.close()


def prove(wanted: dict[str, Any]) -> dict[str, Any]:
    """Answer a scan that asks for agreement: {"refused": reason} or a token for ``work`` with everything that was proved.

    wanted: version, encoders {id: name}, precision, device (None: this machine's own choice), roots.
    """
    about = {"version": __version__, "host": os.uname().nodename, "pid": os.getpid()}
    try:
        return {**about, **_prove(wanted)}
    except IndexerError as e:
        return {**about, "refused": str(e)}
    except (
        Exception
    ) as e:  # a library that is not there, a device that does not answer: whatever it is, it is no agreement
        return {**about, "refused": f"{type(e).__name__}: {e}"}


def _prove(wanted: Mapping[str, Any]) -> dict[str, Any]:
    if wanted["version"] != __version__:
        raise ModelError(
            f"runs indexer {__version__} and this scan is {wanted['version']}: install the same version on all machines"
        )
    for root in wanted["roots"]:
        if not os.path.lexists(root):
            raise ModelError(f"does not see {printable(root)}: mount it there, or say with --map where it is")
    settings = replace(load_settings(), precision=wanted["precision"])
    if wanted["device"] is not None:
        settings = replace(settings, device=wanted["device"])
    session = _session(settings, wanted["encoders"])
    started_s = time.monotonic()
    encoders = {encoder_id: session.encoder(encoder_id) for encoder_id in wanted["encoders"]}
    loaded_s = time.monotonic() - started_s
    first = next(iter(encoders.values()), None)
    return {
        "refused": None,
        "token": session.token,
        "limit": session.limit,
        "jobs": session.jobs,
        "load_s": loaded_s,
        "busy": session.busy(),
        "device": first.device if first else None,
        "engine": first.engine if first else None,
        "gpu": _gpu(encoders.values()),
        "precision": {encoder_id: encoder.precision for encoder_id, encoder in encoders.items()},
        "probe": {encoder_id: session.probe(encoder_id) for encoder_id in encoders},
    }


def work(token: str, op: str, items: bytes) -> bytes:
    """Inspect or embed files: {"outcomes": one an item, in order, "busy": ...}, or {"unknown": True} to whoever proved nothing here.

    ``items`` and the answer are pickled by the two ends, for Dask would look into every part of them.
    """
    return pickle.dumps(_work(token, op, pickle.loads(items)))  # noqa: S301 - whoever reaches a Dask worker runs code on it anyway


def _work(token: str, op: str, items: Sequence[Item]) -> dict[str, Any]:
    from distributed import secede

    with _lock:
        session = next((s for s in _sessions.values() if s.token == token), None)
        if session is None:
            return {"unknown": True}
        session.used_s = time.monotonic()
        session.at_work += 1
    try:
        secede()  # the readers bound the work; so that other tasks' files get into the same batches
        begun = [session.begin(op, item) for item in items]
        return {"outcomes": [_outcome(future) for future in begun], "busy": session.busy()}
    finally:
        with _lock:
            session.used_s = time.monotonic()
            session.at_work -= 1


def same_content(one: Stat, other: Stat) -> bool:
    """Whether two machines see the same state of a file: device and inode differ between them, and some mounts cut the time."""
    times = one.mtime_ns, other.mtime_ns
    second = 1_000_000_000
    whole = (
        any(time_ns % second == 0 for time_ns in times) and times[0] // second == times[1] // second
    )  # SFTP knows whole seconds
    return one.size == other.size and (whole or abs(times[0] - times[1]) < 1000)  # SMB counts in 100 ns


def probe_signal(sample_rate_hz: int) -> np.ndarray:
    """The test signal, (n,) float32: gliding tones with a beat, the same on every machine."""
    t = np.arange(round(PROBE_S * sample_rate_hz)) / sample_rate_hz
    tones = sum(
        np.sin(2 * np.pi * (base + glide * t) * t)
        for base, glide in ((110.0, 0.0), (440.0, 15.0), (1500.0, 40.0), (3100.0, -60.0))
    )
    return np.asarray(0.1 * tones * (0.6 + 0.4 * np.sign(np.sin(2 * np.pi * 2.1 * t))), np.float32)


def _look(path: bytes) -> Stat:
    """The file's stat as this machine sees it, if it may read it. A machine that may not says nothing about the file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        raise DeferredError(path, f"{CANNOT_OPEN} ({e.strerror})") from e
    try:
        return Stat.of(handle)
    finally:
        os.close(handle)


def _session(settings: Settings, encoders: Mapping[str, str]) -> Session:
    """The open session for these encoders, or a new one. Raises ModelError for a model that is not here."""
    agreed = repr((sorted(encoders), settings.device, settings.precision))
    with _lock:
        session = _sessions.get(agreed)
        if session is None:
            threads = _threads()
            # Dask's nanny sets them to 1; read by the libraries when they are loaded, which is later.
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
                os.environ[name] = str(threads)
            parts = {encoder_id: _part(settings, encoder_id, name) for encoder_id, name in encoders.items()}
            session = _sessions[agreed] = Session(settings.jobs or threads, parts)
            threading.Thread(
                target=_leave_when_unused, args=(agreed, session), name="indexer-idle", daemon=True
            ).start()
        session.used_s = time.monotonic()
        return session


def _threads() -> int:
    """The cores that this worker was given: `dask worker --nthreads`."""
    from distributed import get_worker

    try:
        return max(1, int(get_worker().state.nthreads))
    except ValueError:  # not in a worker
        return os.cpu_count() or 1


def _part(settings: Settings, encoder_id: str, name: str) -> Part:
    info = known((encoder_id,), settings.models)
    if info is None and settings.encoder:  # a model that lies elsewhere, named in this machine's own settings
        info = next(
            (part for part in named(settings.encoder, settings.models).parts if part.variant_of(encoder_id)), None
        )
    if info is None:
        raise ModelError(
            f"has no model {name} ({encoder_id[:12]}) in {settings.models}: install it there (`indexer models download` or `add`)"
        )
    variant = info.variant_of(encoder_id)
    assert variant is not None
    return part_of(info.varied(variant), settings)


def _gpu(encoders: Any) -> str | None:
    """Which GPU an encoder lies on, where one does."""
    if not any(encoder.device == "cuda" for encoder in encoders):
        return None
    from indexer.encoders.m2d.device import gpu_id

    return gpu_id()


def _leave_when_unused(agreed: str, session: Session) -> None:
    while True:
        time.sleep(UNUSED_S / 10)
        with _lock:
            if session.at_work or time.monotonic() - session.used_s < UNUSED_S:
                continue
            del _sessions[agreed]
        session.close()
        return


def _outcome(future: "Future[Any]") -> tuple[str, Any]:
    """("ok", the value in plain types), or an error's class and (reason, deaths)."""
    try:
        value = future.result()
    except FileError as e:
        return type(e).__name__, (e.reason, e.deaths if isinstance(e, ReaderDiedError) else 0)
    except CancelledError:
        return "DeferredError", ("the worker was ending", 0)
    except InterruptedError:
        return "DeferredError", ("the worker was ending", 0)
    except (ValueError, ArithmeticError, ModelError) as e:
        return type(e).__name__, (str(e), 0)
    except Exception as e:  # of the encoder: its text is all that is told of it
        return "Exception", (str(e) or type(e).__name__, 0)
    return "ok", value if isinstance(value, dict) else (value.vector, value.units, value.trajectory, value.duration_s)
