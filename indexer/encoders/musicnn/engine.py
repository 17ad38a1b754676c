"""Both MusiCNN networks on all cores, from samples to vectors. The only module of this encoder that starts threads."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from indexer.encoders.musicnn.frontend import LogMel
from indexer.encoders.musicnn.model import Network
from indexer.encoders.musicnn.weights import NETWORKS, of_network

UNITS_PER_TASK = 2  # measured: more are no faster, and fewer leave a thread less to wait for at the end of a batch
TASKS_PER_THREAD = 4  # in a batch


class Engine:
    """Encodes batches; each thread takes some units of its own and waits for no other until the end.

    One operation on all cores at a time would wait after each for the slowest core, which readers share: measured with
    ten busy processes beside it, that is ten times slower.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        """``arrays``: see ``weights.load``."""
        self._log_mel = LogMel()
        self._networks = [Network(of_network(arrays, network)) for network in NETWORKS]
        threads = torch.get_num_threads()
        self._pool = _single_core_threads(threads)
        self.batch_units = threads * TASKS_PER_THREAD * UNITS_PER_TASK

    def encode(self, samples: np.ndarray) -> np.ndarray:
        """Take (n, UNIT) float32, return (n, networks x WIDTH) float32."""
        tasks = [samples[start : start + UNITS_PER_TASK] for start in range(0, len(samples), UNITS_PER_TASK)]
        return np.concatenate(list(self._pool.map(self._encode, tasks)))

    @torch.inference_mode()
    def _encode(self, samples: np.ndarray) -> np.ndarray:
        frames = self._log_mel(torch.from_numpy(samples))
        vectors: np.ndarray = torch.cat([network(frames) for network in self._networks], 1).numpy()
        return vectors


def _single_core_threads(count: int) -> ThreadPoolExecutor:
    """Threads in which torch uses no others. torch's setting is each thread's own, and the default of new threads."""
    started = threading.Barrier(count + 1)

    def start() -> None:
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(count, "musicnn", start)
    for _ in range(count):
        pool.submit(lambda: None)
    started.wait()
    torch.set_num_threads(count)  # the default, which the threads have changed
    return pool
