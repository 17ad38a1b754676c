"""The code that runs inside a Dask worker: answers whether it can take part in a scan, then inspects and embeds files.

Owns the sessions: a local executor with its readers and encoders. The weights come from the worker machine's models
folder, the number of readers and the limits of a file from its settings. Dask imports this module by name on workers;
only plain values cross the network. Knows neither database nor heads, and writes to no file.
"""

import os
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np

from indexer import __version__
from indexer.cluster.outcome import CANNOT_OPEN, REASON_CHARS, to_plain
from indexer.cluster.wire import pack, unpack
from indexer.config import Settings, load_settings
from indexer.encoders.encoder import Encoder, Part, Variant
from indexer.errors import DeferredError, IndexerError, ModelError
from indexer.files.audio.identity import Stat
from indexer.files.children.limits import Limits
from indexer.files.children.pool import Readers
from indexer.listen.executor import LocalExecutor
from indexer.models.choice import known, named, part_of
from indexer.wording import printable

UNUSED_S = 900.0  # a session without work for this long is closed, so that its encoders leave the memory
PROBE_S = 13.0  # length of the test signal: a little more than two units of the published models

# path on the worker, size, mtime_ns, encoder id, whether it is measured too, whether it is heard roughly
Item = tuple[bytes, int, int, str | None, bool, bool]
_sessions: dict[str, "Session"] = {}  # by encoders, device and precision
_lock = threading.Lock()


class Session:
    """Readers and encoders for all scans with the same encoders, device and precision."""

    def __init__(self, jobs: int, parts: Mapping[str, Part], limits: Limits) -> None:
        self.token = uuid.uuid4().hex
        self.jobs = jobs
        self.used_s = time.monotonic()
        self._began_s = time.monotonic()
        self._parts = parts
        self._readers = Readers(jobs, limits, follows_links=True)
        self._executor = LocalExecutor(self._readers)
        self._lock = threading.Lock()  # the executor takes one caller at a time
        self.at_work = 0  # tasks in progress

    @property
    def limit(self) -> int:
        """How many files in flight keep it busy."""
        return self._executor.limit

    def encoder(self, encoder_id: str) -> Encoder:
        """The loaded encoder. Raises ModelError where it cannot be loaded or has another id."""
        part = self._parts[encoder_id]
        with self._lock:
            encoder = self._executor.encoder(part)
        if Variant(part.units, encoder.precision == "int8").id_of(encoder.id) != encoder_id:
            found, wanted = encoder.id[:12], encoder_id[:12]
            raise ModelError(f"loaded {encoder.name} and got another encoder ({found}, not what {wanted} stands for)")
        return encoder

    def words_id(self, encoder_id: str) -> str | None:
        """The id of the audio vectors that come with an encoder; None: it knows no words."""
        return self._parts[encoder_id].words_id

    def probe(self, encoder_id: str) -> bytes:
        """The embedding of the test signal: (width,) little-endian float32."""
        signal = probe_signal(self.encoder(encoder_id).sample_rate_hz)
        embedding = self._executor.embed_samples(signal, self._parts[encoder_id]).result()
        return embedding.vector.astype("<f4").tobytes()

    def begin(self, op: str, item: Item) -> "Future[Any]":
        """Begin to inspect or embed one file; an error is in the future, too."""
        path, size, mtime_ns, encoder_id, analyse, rough = item
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
                    else self._executor.embed(path, own, self._parts[encoder_id], analyse=analyse, rough=rough)
                )
        except (IndexerError, OSError) as e:
            failed: Future[Any] = Future()
            failed.set_exception(e)
            return failed

    def busy(self) -> dict[str, float]:
        """Seconds since the session began ("elapsed"), and how many of them "reading" and "encoder" were busy."""
        elapsed_s = time.monotonic() - self._began_s
        return {"elapsed": elapsed_s, **{part: share * elapsed_s for part, share in self._executor.load().items()}}

    def close(self) -> None:
        """End the readers and free the encoders."""
        self._executor.close()
        self._readers.close()


def prove(wanted: dict[str, Any]) -> dict[str, Any]:
    """Answer a scan: {"refused": reason}, or a token for ``work`` with what indexer.cluster.admission compares.

    ``wanted``: version, encoders {id: name}, words {encoder id: id of its audio vectors}, precision, device (None: this
    worker chooses), roots.
    """
    about = {"version": __version__, "host": os.uname().nodename, "pid": os.getpid()}
    try:
        return {**about, **_prove(wanted)}
    except IndexerError as e:
        return {**about, "refused": str(e)[:REASON_CHARS]}
    except Exception as e:  # a missing library, a broken device: whatever it is, this worker cannot take part
        return {**about, "refused": f"{type(e).__name__}: {e}"[:REASON_CHARS]}


def _prove(wanted: Mapping[str, Any]) -> dict[str, Any]:
    if wanted["version"] != __version__:
        scan = wanted["version"]
        raise ModelError(
            f"runs indexer {__version__} and this scan is {scan}: install the same version on all machines"
        )
    for root in wanted["roots"]:
        if not os.path.lexists(root):
            raise ModelError(f"does not see {printable(root)}: mount it there, or say with --map where it is")
    settings = replace(load_settings(), precision=wanted["precision"])
    if wanted["device"] is not None:
        settings = replace(settings, device=wanted["device"])
    session = _session(settings, wanted["encoders"])
    for encoder_id, words_id in wanted["words"].items():
        if session.words_id(encoder_id) != words_id:
            raise ModelError(
                f"its model {wanted['encoders'][encoder_id]} knows no words, or other ones than the scan's: "
                "remove it there and install it again"
            )
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
    """Inspect or embed files: {"outcomes": (path, kind, value) for each item, in order, "busy": ...}.

    {"unknown": True} for a token that ``prove`` of this process did not give. Items and answer are packed
    (indexer.cluster.wire), because Dask would pickle them, and inspect every element.
    """
    return pack(_work(token, op, unpack(items)))


def _work(token: str, op: str, items: Sequence[Item]) -> dict[str, Any]:
    from distributed import secede

    with _lock:
        session = next((s for s in _sessions.values() if s.token == token), None)
        if session is None:
            return {"unknown": True}
        session.used_s = time.monotonic()
        session.at_work += 1
    try:
        secede()  # lets other tasks begin, so that their files share the encoder's batches; the readers limit the work
        begun = [session.begin(op, item) for item in items]
        outcomes = [(item[0], *to_plain(future)) for item, future in zip(items, begun, strict=True)]
        return {"outcomes": outcomes, "busy": session.busy()}
    finally:
        with _lock:
            session.used_s = time.monotonic()
            session.at_work -= 1


def same_content(one: Stat, other: Stat) -> bool:
    """Whether two machines see the same content of a file: the same size and modification time.

    Device and inode differ between machines. SFTP keeps whole seconds, SMB steps of 100 ns.
    """
    times = one.mtime_ns, other.mtime_ns
    second = 1_000_000_000
    same_second = any(time_ns % second == 0 for time_ns in times) and times[0] // second == times[1] // second
    return one.size == other.size and (same_second or abs(times[0] - times[1]) < 1000)


def probe_signal(sample_rate_hz: int) -> np.ndarray:
    """The test signal, (n,) float32: gliding tones with a beat, the same on every machine."""
    t = np.arange(round(PROBE_S * sample_rate_hz)) / sample_rate_hz
    tones = sum(
        np.sin(2 * np.pi * (base + glide * t) * t)
        for base, glide in ((110.0, 0.0), (440.0, 15.0), (1500.0, 40.0), (3100.0, -60.0))
    )
    return np.asarray(0.1 * tones * (0.6 + 0.4 * np.sign(np.sin(2 * np.pi * 2.1 * t))), np.float32)


def _look(path: bytes) -> Stat:
    """The stat of a file that this worker may read. Raises DeferredError: another worker may be able to read it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        raise DeferredError(path, f"{CANNOT_OPEN} ({e.strerror})") from e
    try:
        return Stat.of(handle)
    finally:
        os.close(handle)


def _session(settings: Settings, encoders: Mapping[str, str]) -> Session:
    """The open session for these encoders, or a new one. Raises ModelError for a model that is not installed."""
    key = repr((sorted(encoders), settings.device, settings.precision))
    with _lock:
        session = _sessions.get(key)
        if session is None:
            threads = _threads()
            # Dask's nanny sets these to 1; the libraries read them when they are loaded, which is later.
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
                os.environ[name] = str(threads)
            parts = {encoder_id: _part(settings, encoder_id, name) for encoder_id, name in encoders.items()}
            session = _sessions[key] = Session(settings.jobs or threads, parts, Limits.of(settings))
            threading.Thread(target=_close_when_unused, args=(key, session), name="indexer-idle", daemon=True).start()
        session.used_s = time.monotonic()
        return session


def _threads() -> int:
    """The threads that this worker was given: `dask worker --nthreads`."""
    from distributed import get_worker

    try:
        return max(1, int(get_worker().state.nthreads))
    except ValueError:  # not in a worker
        return os.cpu_count() or 1


def _part(settings: Settings, encoder_id: str, name: str) -> Part:
    info = known((encoder_id,), settings.models)
    if info is None and settings.encoder:  # a model outside the models folder that the worker's settings name
        info = next(
            (part for part in named(settings.encoder, settings.models).parts if part.variant_of(encoder_id)), None
        )
    if info is None:
        raise ModelError(
            f"has no model {name} ({encoder_id[:12]}) in {settings.models}: "
            "install it there (`indexer models download` or `add`)"
        )
    variant = info.variant_of(encoder_id)
    assert variant is not None
    return part_of(info.varied(variant), settings)


def _gpu(encoders: Any) -> str | None:
    """The id of the GPU, where an encoder uses one."""
    if not any(encoder.device == "cuda" for encoder in encoders):
        return None
    from indexer.encoders.device import gpu_id

    return gpu_id()


def _close_when_unused(key: str, session: Session) -> None:
    while True:
        time.sleep(UNUSED_S / 10)
        with _lock:
            if session.at_work or time.monotonic() - session.used_s < UNUSED_S:
                continue
            del _sessions[key]
        session.close()
        return
