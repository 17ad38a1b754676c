"""Log-mel clips of recordings, cached in files: the input of the CNN of `indexer evaluate --cnn`.

Chooses the parts of a recording and owns the files. The mel spectrogram is computed by M2D's front end, so that CNN
and M2D get the same values. Decodes in reader processes only and never touches the library; only evaluation may import
this module.
"""

import hashlib
import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

from indexer.encoders.encoder import Unit
from indexer.encoders.m2d.frontend import LogMel, M2DCutter
from indexer.encoders.m2d.geometry import Geometry, front_end
from indexer.errors import FileError, IndexerError, ReadError, TruncatedError
from indexer.files.children.limits import Limits
from indexer.files.children.worker import Worker
from indexer.files.replace import replacing

CLIPS = 6  # at most, a recording: 36 s of audio and 584 kB
CLIP_FRAMES = 608  # 6.08 s, the length of M2D's units
FRONT_END = front_end(16_000)
CLIP_SHAPE = (FRONT_END.n_mels, CLIP_FRAMES)

# The cutter reads only the frames: no encoder follows.
_GEOMETRY = Geometry(
    width=0,
    depth=0,
    heads=0,
    mlp_width=0,
    patch_mels=0,
    patch_frames=1,
    rows=0,
    columns=CLIP_FRAMES,
    unit_frames=CLIP_FRAMES,
)
# Part of the files' names, so that clips made with other constants are never used.
_RECIPE = hashlib.sha256(repr((FRONT_END, CLIPS, CLIP_FRAMES)).encode()).hexdigest()[:8]


def make_all(
    paths: Mapping[str, bytes], folder: Path, jobs: int, limits: Limits, on_done: Callable[[], None] = lambda: None
) -> tuple[list[str], dict[str, FileError]]:
    """Make the missing clips; return (keys that have clips now, error of each other key), in the order of ``paths``.

    ``paths``: audio_sha256 -> a file of this recording (the hash is not checked). ``jobs``: reader processes, with
    ``limits``. ``on_done`` is called after each recording, in the calling thread. Raises IndexerError when the folder
    cannot be written.
    """
    workers = [Worker(limits) for _ in range(max(1, min(jobs, len(paths))))]
    free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for worker in workers:
        free.put(worker)

    def make_one(key: str) -> FileError | None:
        worker = free.get()
        try:
            make(paths[key], key, folder, worker)
        except FileError as error:
            return error
        finally:
            free.put(worker)
        return None

    failures: dict[str, FileError] = {}
    pool = ThreadPoolExecutor(len(workers), thread_name_prefix="spectrograms")
    try:
        for key, error in zip(paths, pool.map(make_one, paths), strict=True):
            if error is not None:
                failures[key] = error
            on_done()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.interrupt()
        pool.shutdown(wait=True)
        for worker in workers:
            worker.close()
    return [key for key in paths if key not in failures], failures


def make(path: bytes, audio_sha256: str, folder: Path, worker: Worker) -> Path:
    """The file with a recording's clips; makes it unless it exists and is valid.

    Raises FileError for a recording that cannot be decoded or is no longer than 12.5 ms, and IndexerError when the
    folder cannot be written.
    """
    target = _file(folder, audio_sha256)
    if _read(target) is None:
        units = _spread(_heard(worker.decode(path, sample_rate_hz=FRONT_END.sample_rate_hz)))
        if not units:
            raise ReadError(path, "too short for a spectrogram")
        _write(target, _clips(units))
    return target


def load(folder: Path, keys: Sequence[str]) -> list[np.ndarray]:
    """The clips of each recording, in the order of ``keys``: (1 to CLIPS, mels, CLIP_FRAMES) float16, at most 584 kB.

    Raises IndexerError for a file that is missing or damaged.
    """
    found = []
    for key in keys:
        clips = _read(_file(folder, key))
        if clips is None:
            raise IndexerError(
                f"{_file(folder, key)}: the spectrogram is missing or damaged; "
                "run `indexer evaluate --cnn` again to make it"
            )
        found.append(clips)
    return found


def _heard(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The blocks; a file that lost its end ends there."""
    with suppress(TruncatedError):
        yield from blocks


def _spread(blocks: Iterable[np.ndarray]) -> list[Unit]:
    """Up to CLIPS whole units, evenly spread over a stream of blocks (n,) of samples.

    Keeps every stride-th unit; whenever there are too many, drops every second one and doubles the stride. So the
    length need not be known before, and memory is bounded. An incomplete last unit is used only where it is the only
    one, since it has to be padded.
    """
    cutter = M2DCutter(FRONT_END, _GEOMETRY)
    kept: list[Unit] = []
    whole, stride = 0, 1
    for block in blocks:
        for unit in cutter.push(block):
            if whole % stride == 0:
                if len(kept) == 2 * CLIPS:
                    kept, stride = kept[::2], 2 * stride
                kept.append(unit)
            whole += 1
    kept = kept or cutter.finish()
    taken = min(CLIPS, len(kept))
    return [
        kept[(2 * i + 1) * len(kept) // (2 * taken)] for i in range(taken)
    ]  # the middle unit of each of ``taken`` equal parts


def _clips(units: Sequence[Unit]) -> np.ndarray:
    """Log-mel spectrograms (clips, mels, CLIP_FRAMES) float16 of units of equal length; a short unit is repeated.

    Repeated and not padded with silence, from which the CNN could learn that a recording is short.
    """
    import torch

    frames = _log_mel()(torch.from_numpy(np.stack([unit.samples for unit in units]))).numpy()  # (clips, mels, frames)
    repeats = -(-CLIP_FRAMES // frames.shape[2])
    return np.tile(frames, (1, 1, repeats))[:, :, :CLIP_FRAMES].astype(np.float16)


@cache
def _log_mel() -> LogMel:
    return LogMel(FRONT_END)


def _file(folder: Path, audio_sha256: str) -> Path:
    return folder / f"{audio_sha256}.{_RECIPE}.npy"


def _read(path: Path) -> np.ndarray | None:
    """The clips in a file; None where it is missing, damaged or of another form."""
    try:
        # Mapping it first fails for a truncated file, without allocating the size that its header states.
        clips = np.array(np.lib.format.open_memmap(path, mode="r"))
    except Exception:  # numpy raises a dozen kinds on a damaged header
        return None
    valid = clips.dtype == np.float16 and clips.shape[1:] == CLIP_SHAPE and 0 < len(clips) <= CLIPS
    return clips if valid and np.isfinite(clips).all() else None


def _write(path: Path, clips: np.ndarray) -> None:
    """Write clips, all or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.save(file, clips)
    except OSError as e:
        raise IndexerError(
            f"{path.parent}: spectrograms cannot be kept there ({e.strerror or e}); make room, or leave --cnn away"
        ) from e
