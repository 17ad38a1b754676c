"""The M2D encoder: a plain ViT over patches of a log-mel spectrogram, for inference only.

Written from the papers (Niizumi et al. 2023, 2024; Dosovitskiy et al. 2021), with the parameter names of the published
checkpoints. Of what a CLAP checkpoint adds it has the audio's side. Never reads files, cuts audio or picks a device.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn

from indexer.encoders.m2d.geometry import Geometry
from indexer.encoders.m2d.words import Projection

NORM_EPS = 1e-6
SEMANTIC_NORM_EPS = 1e-5


class Linear(nn.Module):
    """x W^T + b, optionally followed by the exact GELU; weights may be packed for the CPU's matrix kernels."""

    def __init__(self, inputs: int, outputs: int, *, gelu: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False)
        self.gelu = gelu
        self._packed: Tensor | None = None

    def pack(self, tokens: int) -> None:
        """Pack the weight for oneDNN, tuned for ``tokens`` tokens a call (any number is correct)."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), tokens)
        self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)  # the packed copy replaces it

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) of any float type -> (..., outputs) in the weight's type."""
        x = x.to(self.bias.dtype)
        if self._packed is not None:
            post, algorithm = ("gelu", "none") if self.gelu else ("none", "")
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, post, [], algorithm)
            return y
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y) if self.gelu else y


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.heads = geometry.heads
        self.qkv = Linear(geometry.width, 3 * geometry.width)
        self.proj = Linear(geometry.width, geometry.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        B, N, C = x.shape  # noqa: N806 - batch, tokens, width
        qkv = self.qkv(x).view(B, N, 3, self.heads, C // self.heads)  # (B, N, 3, nh, hs)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, nh, N, hs)
        y = F.scaled_dot_product_attention(q, k, v)  # (B, nh, N, hs)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(B, N, C))  # (B, N, C)
        return out


class MLP(nn.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.fc1 = Linear(geometry.width, geometry.mlp_width, gelu=True)
        self.fc2 = Linear(geometry.mlp_width, geometry.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        out: Tensor = self.fc2(self.fc1(x))
        return out


class Block(nn.Module):
    """Pre-norm transformer block. The residual stream is float32 at every precision of the products."""

    def __init__(self, geometry: Geometry, norm_eps: float = NORM_EPS) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(geometry.width, eps=norm_eps)
        self.attn = Attention(geometry)
        self.norm2 = nn.LayerNorm(geometry.width, eps=norm_eps)
        self.mlp = MLP(geometry)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) float32 -> (B, N, C) float32."""
        x = x + self.attn(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class PatchEmbed(nn.Module):
    """The strided convolution of the paper as one matrix product, since its patches do not overlap.

    CUDA would by default compute a convolution in TF32, which costs three digits.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.patch = (geometry.patch_mels, geometry.patch_frames)
        self.proj = nn.Conv2d(1, geometry.width, self.patch, stride=self.patch)  # only holds the weights

    def forward(self, lms: Tensor) -> Tensor:
        """(B, mels, frames) with frames a multiple of a patch -> (B, rows x T, C), frequency-major."""
        B, mels, frames = lms.shape  # noqa: N806 - batch
        height, width = self.patch
        x = lms.view(B, mels // height, height, frames // width, width)  # (B, rows, ph, T, pw)
        x = x.permute(0, 1, 3, 2, 4).reshape(B, -1, height * width)  # (B, rows x T, ph x pw)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)  # (B, rows x T, C)


class MeanProjector(nn.Sequential):
    """The mean of a unit's tokens through linear layers with a ReLU between them; without layers the mean itself."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, words)."""
        x = tokens.mean(dim=1)
        for layer in self:
            x = layer(x)
        return x


class SemanticProjector(nn.Module):
    """A token of its own that collects what a unit's tokens say, through blocks of one head."""

    def __init__(self, geometry: Geometry, projection: Projection) -> None:
        super().__init__()
        one_head = replace(geometry, heads=1, mlp_width=projection.hidden)
        self.sem_token = nn.Parameter(torch.empty(1, 1, geometry.width))
        self.sem_blocks = nn.ModuleList(Block(one_head, SEMANTIC_NORM_EPS) for _ in range(projection.depth))
        self.norm = nn.LayerNorm(geometry.width, eps=SEMANTIC_NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, C)."""
        x = torch.cat([self.sem_token.expand(len(tokens), -1, -1), tokens], dim=1)  # (B, 1 + N, C)
        for block in self.sem_blocks:
            x = block(x)
        y: Tensor = self.norm(x[:, 0])
        return y


def projector(geometry: Geometry, projection: Projection) -> nn.Module:
    """The layers of a projection: tokens (B, N, C) -> (B, words)."""
    if projection.form == "semantic":
        return SemanticProjector(geometry, projection)
    if projection.form == "mean":
        return MeanProjector()
    return MeanProjector(
        Linear(geometry.width, projection.hidden), nn.ReLU(), Linear(projection.hidden, projection.width)
    )


class M2D(nn.Module):
    """Turns log-mel units into features per patch column, and into audio vectors where a projection is given."""

    def __init__(self, geometry: Geometry, projection: Projection | None = None) -> None:
        super().__init__()
        self.geometry = geometry
        self.cls_token = nn.Parameter(torch.empty(1, 1, geometry.width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + geometry.rows * geometry.columns, geometry.width))
        self.patch_embed = PatchEmbed(geometry)
        self.blocks = nn.ModuleList(Block(geometry) for _ in range(geometry.depth))
        self.norm = nn.LayerNorm(geometry.width, eps=NORM_EPS)
        self.audio_proj = projector(geometry, projection) if projection else None

    def forward(self, lms: Tensor) -> tuple[Tensor, Tensor]:
        """Take normalised log-mel (B, mels, T x patch frames), T at most ``columns``.

        Returns features (B, T, rows x C) and audio vectors (B, words), both float32; words is 0 without a projection.
        """
        rows, C = self.geometry.rows, self.geometry.width  # noqa: N806 - token width
        B, T = lms.shape[0], lms.shape[2] // self.geometry.patch_frames  # noqa: N806 - batch, patch columns
        x = self.patch_embed(lms)  # (B, rows x T, C)
        pos = self.pos_embed[:, 1:].view(1, rows, -1, C)[:, :, :T]  # (1, rows, T, C): every row cut to T columns
        x = x + pos.reshape(1, rows * T, C)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(B, -1, -1)  # (B, 1, C)
        x = torch.cat([first, x], dim=1)  # (B, 1 + rows x T, C)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)[:, 1:]  # (B, rows x T, C)
        words = self.audio_proj(x) if self.audio_proj is not None else x.new_empty(B, 0)  # (B, words)
        y = x.reshape(B, rows, T, C).transpose(1, 2)  # (B, T, rows, C)
        return y.reshape(B, T, rows * C), words

    def tokens(self, units: int) -> int:
        """Return the number of tokens in a batch of ``units`` full units."""
        return units * (1 + self.geometry.rows * self.geometry.columns)


def build(
    geometry: Geometry,
    projection: Projection | None,
    tensors: dict[str, Tensor],
    device: torch.device,
    precision: torch.dtype,
    batch_units: int,
) -> M2D:
    """Make the model from its tensors, ready for inference; empties ``tensors``, so that packed ones are freed.

    Only the products inside the blocks use ``precision``; norms, residual stream, patch embedding and projection are
    float32. On a
    CPU with oneDNN the weights are packed for batches of ``batch_units``: the same float32 arithmetic, but faster than
    the default library. A lower float32_matmul_precision would use bfloat16 products on machines with AMX.
    """
    with torch.device("meta"):
        model = M2D(geometry, projection)
    model.load_state_dict(tensors, assign=True)
    tensors.clear()
    model.eval().requires_grad_(False).to(device)
    linears = [module for module in model.blocks.modules() if isinstance(module, Linear)]
    for linear in linears:
        linear.to(precision)
    if device.type == "cpu" and _packing_works(precision):
        for linear in linears:
            linear.pack(model.tokens(batch_units))
    return model


def _packing_works(precision: torch.dtype) -> bool:
    """Whether torch's internal packed product exists and agrees with the ordinary one."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    ramp: Any = torch.linspace(-1, 1, 64 * 64).view(64, 64)
    linear = Linear(64, 64, gelu=True)
    linear.weight.copy_(ramp.sin() / 8)
    linear.bias.copy_(ramp[0])
    linear.to(precision)
    plain = linear(ramp).float()
    try:
        linear.pack(64)
        packed = linear(ramp).float()
    except (AttributeError, RuntimeError, TypeError):  # removed, not built for this processor, or changed
        return False
    tolerance = 1e-5 if precision == torch.float32 else 2e-2
    return bool(torch.allclose(plain, packed, rtol=tolerance, atol=tolerance))
