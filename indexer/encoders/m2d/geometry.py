"""The numbers of an M2D model: the encoder's geometry, derived from tensor shapes, and its front end.

Plain dataclasses and arithmetic over shapes, so that quick commands can describe a model without torch. Never reads a
file or holds a tensor. Source of the constants: the M2D paper and its published checkpoints.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from indexer.errors import ModelError

Shape = tuple[int, ...]

N_MELS = 80
HEAD_WIDTH = 64  # ViT-Base: 768 / 12; no tensor's shape shows the number of heads
MAX_WIDTH, MAX_DEPTH, MAX_COLUMNS = 2048, 64, 4096  # far above any published model; limits hostile files
LONG_UNIT_FRAMES = 1001  # 80x1001 has 62 columns of 16 frames; other models' units are whole columns

# From the training recipe, by sample rate: n_fft (= window) and hop in samples, upper edge of the mel bands in Hz.
STFT_BY_RATE = {16_000: (400, 160, 8_000.0), 32_000: (800, 320, 16_000.0)}
F_MIN_HZ = 50.0
DEFAULT_NORM = (-7.1, 4.2)  # mean and std of the log-mel for checkpoints without norm_stats


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """The numbers that turn samples into normalised log-mel."""

    sample_rate_hz: int
    n_fft: int  # samples; also the length of the periodic Hann window
    hop: int  # samples between frames
    n_mels: int
    f_min_hz: float
    f_max_hz: float
    mean: float  # of the natural-log mel spectrogram
    std: float

    def frames_in(self, samples: int) -> int:
        """Whole frames of an STFT without padding."""
        return 1 + (samples - self.n_fft) // self.hop


@dataclass(frozen=True, slots=True)
class Geometry:
    """Shape of the encoder."""

    width: int  # C, numbers in a token
    depth: int  # transformer blocks
    heads: int
    mlp_width: int
    patch_mels: int  # height of a patch in mel bands
    patch_frames: int  # width of a patch in frames
    rows: int  # patches over frequency
    columns: int  # patches over time in a full unit
    unit_frames: int  # frames in a full unit; may exceed columns x patch_frames by a part of a patch

    @property
    def vector_width(self) -> int:
        """Width of the embedding: the rows of one column side by side."""
        return self.rows * self.width

    def columns_of(self, frames: int) -> int:
        """Patch columns of a unit of ``frames`` frames, padded to a whole patch."""
        return min(-(-frames // self.patch_frames), self.columns)


def front_end(sample_rate_hz: int, norm: tuple[float, float] = DEFAULT_NORM) -> FrontEnd:
    """Return the published front end for 16 or 32 kHz. Raises ModelError for another rate or a std not above 0."""
    if sample_rate_hz not in STFT_BY_RATE:
        raise ModelError(f"M2D models work at 16000 or 32000 Hz, not at {sample_rate_hz} Hz")
    mean, std = struct.unpack("<2f", struct.pack("<2f", *norm))  # to float32, like norm_stats: the same id either way
    if not std > 0:
        raise ModelError(f"norm_stats: the standard deviation must be positive, not {std}")
    n_fft, hop, f_max_hz = STFT_BY_RATE[sample_rate_hz]
    return FrontEnd(sample_rate_hz, n_fft, hop, N_MELS, F_MIN_HZ, f_max_hz, mean, std)


def expected_shapes(geometry: Geometry) -> dict[str, Shape]:
    """Return the shape of every tensor of the encoder by its published name."""
    g, c = geometry, geometry.width
    shapes: dict[str, Shape] = {
        "cls_token": (1, 1, c),
        "pos_embed": (1, 1 + g.rows * g.columns, c),
        "patch_embed.proj.weight": (c, 1, g.patch_mels, g.patch_frames),
        "patch_embed.proj.bias": (c,),
        "norm.weight": (c,),
        "norm.bias": (c,),
    }
    return shapes | block_shapes("blocks", g.depth, c, g.mlp_width)


def block_shapes(name: str, depth: int, width: int, mlp_width: int) -> dict[str, Shape]:
    """The tensors of ``depth`` transformer blocks, ``NAME.0`` and so on."""
    layers: dict[str, Shape] = {
        "norm1": (width,), "norm2": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width),
        "mlp.fc1": (mlp_width, width), "mlp.fc2": (width, mlp_width),
    }  # fmt: skip
    shapes: dict[str, Shape] = {}
    for block in range(depth):
        for layer, shape in layers.items():
            shapes[f"{name}.{block}.{layer}.weight"] = shape
            shapes[f"{name}.{block}.{layer}.bias"] = shape[:1]
    return shapes


def geometry_from_shapes(shapes: Mapping[str, Shape], *, unit_frames: int | None = None) -> Geometry:
    """Derive the geometry from tensor shapes and check every shape against it.

    unit_frames: the length stated in the model's name; used only where it agrees with the position embedding.
    Raises ModelError naming the first key that is missing, has the wrong shape, or is not part of this encoder.
    """
    _, _, width = _shape(shapes, "cls_token", 3)
    _, tokens, _ = _shape(shapes, "pos_embed", 3)
    _, _, patch_mels, patch_frames = _shape(shapes, "patch_embed.proj.weight", 4)
    mlp_width, _ = _shape(shapes, "blocks.0.mlp.fc1.weight", 2)
    blocks = {int(m[1]) for key in shapes if (m := re.match(r"blocks\.(\d{1,4})\.", key))}
    if not 0 < width <= MAX_WIDTH or width % HEAD_WIDTH or not 0 < mlp_width <= 8 * width:
        raise ModelError(f"cls_token: {width} is not a width of a ViT encoder (a multiple of {HEAD_WIDTH})")
    if not 0 < patch_mels <= N_MELS or N_MELS % patch_mels or not 0 < patch_frames <= 1024:
        raise ModelError(
            f"patch_embed.proj.weight: patches of {patch_mels}x{patch_frames} do not tile {N_MELS} mel bands"
        )
    rows = N_MELS // patch_mels
    columns = (tokens - 1) // rows
    if not 0 < columns <= MAX_COLUMNS or (tokens - 1) % rows:
        raise ModelError(f"pos_embed: {tokens} positions are not one class token and {rows} rows of columns")
    if max(blocks) >= MAX_DEPTH:
        raise ModelError(f"blocks.{max(blocks)}: more blocks than any known model has")
    geometry = Geometry(
        width,
        max(blocks) + 1,
        width // HEAD_WIDTH,
        mlp_width,
        patch_mels,
        patch_frames,
        rows,
        columns,
        _unit_frames(columns, patch_frames, unit_frames),
    )
    check_shapes(shapes, geometry)
    return geometry


def check_shapes(shapes: Mapping[str, Shape], geometry: Geometry) -> None:
    """Compare shapes with those of the geometry. Raises ModelError naming the first key that differs."""
    expected = expected_shapes(geometry)
    for key, shape in expected.items():
        if key not in shapes:
            raise ModelError(f"{key}: missing from the checkpoint")
        if tuple(shapes[key]) != shape:
            raise ModelError(f"{key}: shape {list(shapes[key])} where {list(shape)} is expected")
    for key in shapes:
        if key.startswith(("blocks.", "patch_embed.", "norm.")) and key not in expected:
            raise ModelError(f"{key}: not part of M2D's encoder, so its result would be wrong")


def _unit_frames(columns: int, patch_frames: int, claimed: int | None) -> int:
    for frames in (claimed, LONG_UNIT_FRAMES):
        if frames and frames // patch_frames == columns:
            return frames
    return columns * patch_frames


def _shape(shapes: Mapping[str, Shape], key: str, dims: int) -> Shape:
    if key not in shapes:
        raise ModelError(f"{key}: missing from the checkpoint")
    if len(shapes[key]) != dims:
        raise ModelError(f"{key}: {len(shapes[key])} dimensions where {dims} are expected")
    return tuple(shapes[key])
