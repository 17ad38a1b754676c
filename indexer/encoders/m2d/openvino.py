"""The M2D encoder as an OpenVINO graph: model.py's arithmetic with faster matrix kernels on a CPU.

Builds the graph from the weights, compiles it, and tells what the processor multiplies. Never reads a model's file or
imports torch, and turns OpenVINO's telemetry off.
"""

import hashlib
import importlib.util
import io
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from indexer.encoders.m2d.geometry import Geometry
from indexer.encoders.m2d.int8 import LEVELS, Seen, activation_range, join, quantised, smoothed_pairs, smoothing
from indexer.encoders.m2d.words import Projection
from indexer.errors import ModelError

NORM_EPS, SEMANTIC_NORM_EPS = 1e-6, 1e-5
_CPUINFO = Path("/proc/cpuinfo")
_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/core_cpus_list"
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}  # without these, bfloat16 products are emulated or in float32
# Without one of these, sums of two products may overflow, and int8 is no faster.
_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8"}
_OBSERVED_UNITS = 5  # in a batch


def serves(precision: str) -> bool:
    """Whether OpenVINO is installed and the processor supports this precision."""
    has_products = {"fp32": True, "bf16": multiplies_bf16(), "int8": multiplies_int8()}
    return is_installed() and has_products[precision]


def is_installed() -> bool:
    """Whether OpenVINO is installed; there are processors and systems without a wheel of it."""
    return importlib.util.find_spec("openvino") is not None


def multiplies_bf16() -> bool:
    """Whether the processor has bfloat16 products; False where /proc/cpuinfo does not list it.

    OpenVINO's own list of capabilities does not tell: it names BF16 for every processor with AVX-512.
    """
    return bool(_BF16_FLAGS & _cpu_flags())


def multiplies_int8() -> bool:
    """Whether the processor has int8 products that sum without overflow; False where /proc/cpuinfo does not list it."""
    return bool(_INT8_FLAGS & _cpu_flags())


def _cpu_flags() -> set[str]:
    return set(_cpu_line("flags").split())


def _cpu_line(name: str) -> str:
    """What /proc/cpuinfo says of the first processor; empty where it says nothing."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def processor() -> str:
    """A text that differs for processors on which a compiled model, or its fastest batch, may differ."""
    flags = hashlib.sha256(" ".join(sorted(_cpu_flags())).encode()).hexdigest()[:16]
    return f"{platform.machine()}, {_cpu_line('model name') or platform.processor()}, {flags}"


def threads() -> int:
    """The threads to compute with: OMP_NUM_THREADS, else one for each physical core that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return len({_core(cpu) for cpu in usable})


def _core(cpu: int) -> str:
    """The logical processors that share a core with this one."""
    try:
        return Path(_TOPOLOGY.format(cpu)).read_text()
    except OSError:
        return str(cpu)


class Observer:
    """The encoder in float32, which measures the input ranges of the linear layers in its blocks."""

    def __init__(self, geometry: Geometry, weights: Mapping[str, np.ndarray]) -> None:
        """weights: float32 by their published names, not needed afterwards."""
        build = _Builder(weights, geometry.depth, observed=True)
        self._request = compiled(_graph(build, geometry), "fp32").create_infer_request()
        self._layers = build.observed_layers

    def __call__(self, lms: np.ndarray) -> dict[str, Seen]:
        """Return each layer's input range over log-mel (B, mels, frames) float32."""
        batches = []
        for start in range(0, len(lms), _OBSERVED_UNITS):
            ends = list(self._request.infer([lms[start : start + _OBSERVED_UNITS]]).to_tuple())[1:]
            batches.append(
                {name: Seen(ends[2 * n].copy(), ends[2 * n + 1].copy()) for n, name in enumerate(self._layers)}
            )
        return join(batches)


def encoder_graph(
    geometry: Geometry,
    weights: Mapping[str, np.ndarray],
    seen: Mapping[str, Seen] | None = None,
    projection: Projection | None = None,
) -> Any:
    """The encoder: log-mel (B, mels, T x patch frames), T at most ``columns`` -> (B, T, rows x C) float32.

    With a projection its second result is the audio vectors (B, words). weights: float32 by their published names, not
    needed once the graph is compiled. seen: for int8, the result of an Observer. Raises ModelError where OpenVINO is
    damaged.
    """
    return _graph(_Builder(weights, geometry.depth, seen), geometry, projection)


def compiled(graph: Any, precision: str, streams: int = 1) -> Any:
    """Compile a graph for the processor. streams: of requests that are computed at the same time."""
    return engine().Core().compile_model(graph, "CPU", _options(precision, streams))


def exported(model: Any) -> bytes:
    """A compiled model as bytes, for this release of OpenVINO."""
    content: bytes = model.export_model().read()
    return content


def imported(content: bytes, precision: str, streams: int = 1) -> Any:
    """The model that ``exported`` made into bytes. It trusts them: check them first. Raises RuntimeError."""
    return engine().Core().import_model(io.BytesIO(content), "CPU", _options(precision, streams))


def _options(precision: str, streams: int) -> dict[str, Any]:
    in_bf16 = precision == "bf16" or (precision == "int8" and multiplies_bf16())
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if in_bf16 else "f32",
        "INFERENCE_NUM_THREADS": max(threads(), streams),
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,  # pinned threads would wait for readers that decode on the same cores
    }


def version() -> str:
    """The engine's name and release, such as OpenVINO 2026.4."""
    return "OpenVINO " + ".".join(engine().__version__.split(".")[:2])


def engine() -> Any:
    """The library without its telemetry, which would write to the home folder and call Google Analytics on import."""
    # None makes the import fail; OpenVINO then uses a stub.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"OpenVINO cannot be loaded ({reason}): "
            "pip install --force-reinstall openvino, or pip uninstall openvino, which leaves the work to torch"
        ) from error
    return openvino


class _Builder:
    """Makes the operations of the graph, with weights by name.

    seen: the layers that multiply in integers, with their input ranges. observed: adds the input ranges of the blocks'
    linear layers to the graph's outputs.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        depth: int,
        seen: Mapping[str, Seen] | None = None,
        *,
        observed: bool = False,
    ) -> None:
        engine()
        from openvino import opset13

        self.weights = weights
        self.op: Any = opset13
        self.observed_layers: list[str] = []
        self.ends: list[Any] = []
        self._observed = observed
        self._seen = seen or {}
        self._divisors = {
            name: smoothing(self._seen[linear], weights[f"{linear}.weight"])
            for norm, linear in smoothed_pairs(depth)
            if linear in self._seen
            for name in (norm, linear)
        }

    def weight(self, name: str, *shape: int) -> Any:
        """A tensor of the checkpoint as a constant, not copied; ``shape`` reshapes it."""
        array = self.weights[name]
        return self.op.constant(array.reshape(shape) if shape else array, shared_memory=True)

    def ints(self, *values: int) -> Any:
        return self.op.constant(np.array(values, np.int64))

    def reshape(self, x: Any, *shape: int) -> Any:
        """Reshape x; 0 keeps a dimension, -1 takes what is left."""
        return self.op.reshape(x, self.ints(*shape), special_zero=True)

    def transpose(self, x: Any, *order: int) -> Any:
        return self.op.transpose(x, self.ints(*order))

    def linear(self, x: Any, name: str) -> Any:
        """(B, N, inputs) -> (B, N, outputs)."""
        if self._observed and name.startswith("blocks."):
            self.observed_layers.append(name)
            self.ends += [self.op.reduce_min(x, self.ints(0, 1)), self.op.reduce_max(x, self.ints(0, 1))]
        if name in self._seen:
            product = self._integers(x, name)
        else:
            inputs = int(np.prod(self.weights[f"{name}.weight"].shape[1:]))
            product = self.op.matmul(x, self.weight(f"{name}.weight", -1, inputs), False, True)
        return self.op.add(product, self.weight(f"{name}.bias", 1, 1, -1))

    def _integers(self, x: Any, name: str) -> Any:
        """The product of a layer's input, rounded to LEVELS steps, and its int8 weight; the engine fuses these."""
        op, divisor = self.op, self._divisors.get(name, np.ones(1, np.float32))
        low, high = (op.constant(limit) for limit in activation_range(self._seen[name], divisor))
        weight, scale = quantised(self.weights[f"{name}.weight"] * divisor)
        rows = op.multiply(op.convert(op.constant(weight), np.float32), op.constant(scale))
        return op.matmul(op.fake_quantize(x, low, high, low, high, LEVELS), rows, False, True)

    def norm(self, x: Any, name: str, eps: float = NORM_EPS) -> Any:
        """LayerNorm over the last axis of (B, N, C)."""
        y = self.op.mvn(x, self.ints(2), True, eps, "inside_sqrt")
        gain, bias = (self.weight(f"{name}.{part}", 1, 1, -1) for part in ("weight", "bias"))
        if name in self._divisors:
            gain, bias = (
                self.op.constant(self.weights[f"{name}.{part}"].reshape(1, 1, -1) / self._divisors[name])
                for part in ("weight", "bias")
            )
        return self.op.add(self.op.multiply(y, gain), bias)

    def attention(self, x: Any, name: str, heads: int, width: int) -> Any:
        """(B, N, C) -> (B, N, C)."""
        qkv = self.reshape(self.linear(x, f"{name}.qkv"), 0, 0, 3, heads, width // heads)  # (B, N, 3, nh, hs)
        split = self.op.split(self.transpose(qkv, 2, 0, 3, 1, 4), self.op.constant(np.int64(0)), 3)
        q, k, v = (self.op.squeeze(part, self.ints(0)) for part in split.outputs())  # each (B, nh, N, hs)
        y = self.op.scaled_dot_product_attention(q, k, v)  # (B, nh, N, hs)
        return self.linear(self.reshape(self.transpose(y, 0, 2, 1, 3), 0, 0, width), f"{name}.proj")

    def block(self, x: Any, name: str, heads: int, width: int, eps: float = NORM_EPS) -> Any:
        """A pre-norm transformer block: (B, N, C) -> (B, N, C)."""
        x = self.op.add(x, self.attention(self.norm(x, f"{name}.norm1", eps), f"{name}.attn", heads, width))
        hidden = self.op.gelu(self.linear(self.norm(x, f"{name}.norm2", eps), f"{name}.mlp.fc1"), "erf")
        return self.op.add(x, self.linear(hidden, f"{name}.mlp.fc2"))

    def tokens(self, x: Any, first: int, end: int = np.iinfo(np.int64).max) -> Any:
        """Tokens ``first`` to ``end`` of (B, N, C)."""
        return self.op.slice(x, self.ints(first), self.ints(end), self.ints(1), self.ints(1))

    def audio_vectors(self, tokens: Any, batch: Any, projection: Projection, width: int) -> Any:
        """Patch tokens (B, N, C) -> audio vectors (B, words)."""
        op = self.op
        if projection.form == "semantic":
            own = op.broadcast(self.weight("audio_proj.sem_token"), op.concat([batch, self.ints(1, width)], 0))
            x = op.concat([own, tokens], 1)  # (B, 1 + N, C)
            for i in range(projection.depth):
                x = self.block(x, f"audio_proj.sem_blocks.{i}", 1, width, SEMANTIC_NORM_EPS)
            x = self.norm(self.tokens(x, 0, 1), "audio_proj.norm", SEMANTIC_NORM_EPS)  # (B, 1, C)
        else:
            x = op.reduce_mean(tokens, self.ints(1), True)  # (B, 1, C)
            if projection.form == "mlp":
                x = self.linear(op.relu(self.linear(x, "audio_proj.0")), "audio_proj.2")
        return op.squeeze(x, self.ints(1))


def _graph(build: _Builder, g: Geometry, projection: Projection | None = None) -> Any:
    """Take (B, mels, T x patch frames) for any B and any T <= ``columns``.

    Returns (B, T, rows x C), then the audio vectors (B, words) where there is a projection, then the observed ranges.
    """
    op, weights, rows, C = build.op, build.weights, g.rows, g.width  # noqa: N806 - token width
    lms = op.parameter([-1, rows * g.patch_mels, -1], np.float32)
    x = build.reshape(lms, 0, rows, g.patch_mels, -1, g.patch_frames)  # (B, rows, ph, T, pw)
    x = build.reshape(build.transpose(x, 0, 1, 3, 2, 4), 0, -1, g.patch_mels * g.patch_frames)  # (B, rows x T, ph x pw)
    x = build.linear(x, "patch_embed.proj")  # (B, rows x T, C)

    size = op.shape_of(lms)  # (B, mels, frames)
    batch, frames = (op.gather(size, build.ints(axis), build.ints(0)) for axis in (0, 2))
    columns = op.divide(frames, build.ints(g.patch_frames))
    pos = op.constant(weights["pos_embed"][:, 1:].reshape(1, rows, g.columns, C))
    pos = op.slice(pos, build.ints(0), columns, build.ints(1), build.ints(2))  # (1, rows, T, C), cut to T columns
    x = op.add(x, build.reshape(pos, 1, -1, C))

    first = op.constant(weights["cls_token"] + weights["pos_embed"][:, :1])  # (1, 1, C)
    first = op.broadcast(first, op.concat([batch, build.ints(1, C)], 0))
    x = op.concat([first, x], 1)  # (B, 1 + rows x T, C)
    for i in range(g.depth):
        x = build.block(x, f"blocks.{i}", g.heads, C)
    x = build.tokens(build.norm(x, "norm"), 1)  # (B, rows x T, C)
    words = [build.audio_vectors(x, batch, projection, C)] if projection else []
    x = build.transpose(build.reshape(x, 0, rows, -1, C), 0, 2, 1, 3)  # (B, T, rows, C)
    return engine().Model([build.reshape(x, 0, 0, rows * C), *words, *build.ends], [lms], "m2d")
