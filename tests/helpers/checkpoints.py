"""Random M2D checkpoints in every form NTT publishes; nothing of NTT's is needed to make them."""

import argparse
import hashlib
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

# folder names as published
NAME_608 = "m2d_vit_base-80x608p16x16-221006-mr7_enconly"
NAME_1001 = "m2d_as_vit_base-80x1001p16x16-240213_AS-FT_enconly"
NAME_32K = "m2d_as_vit_base-80x608p16x16p32k-240413_enconly"
NAME_CLAP = "m2d_clap_vit_base-80x608p16x16-240128"
NAME_CLAP_TI = "m2d_clap_vit_base-80x1001p16x16p16kpBpTI-2025"
PREFIXES = ("", "backbone.", "module.ar.runtime.backbone.")


def weights(*, width=64, depth=2, columns=38, seed=0) -> dict[str, np.ndarray]:
    """Encoder weights so large that every part of the network shows in the result; ViT-Base: width 768, depth 12."""
    rng = np.random.default_rng(seed)

    def normal(*shape, scale=1.0, mean=0.0):
        return (rng.standard_normal(shape, np.float32) * np.float32(scale) + np.float32(mean)).astype(np.float32)

    state = {
        "cls_token": normal(1, 1, width, scale=0.5),
        "pos_embed": normal(1, 1 + 5 * columns, width, scale=0.5),
        "patch_embed.proj.weight": normal(width, 1, 16, 16, scale=1 / 16),
        "patch_embed.proj.bias": normal(width, scale=0.1),
        "norm.weight": normal(width, scale=0.2, mean=1),
        "norm.bias": normal(width, scale=0.2),
    }
    for i in range(depth):
        for layer, out, inputs in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            state[f"blocks.{i}.{layer}.weight"] = normal(out * width, inputs * width, scale=(inputs * width) ** -0.5)
            state[f"blocks.{i}.{layer}.bias"] = normal(out * width, scale=0.1)
        for layer in ("norm1", "norm2"):
            state[f"blocks.{i}.{layer}.weight"] = normal(width, scale=0.2, mean=1)
            state[f"blocks.{i}.{layer}.bias"] = normal(width, scale=0.1)
    return state


def exact_weights(*, width=64, depth=1, columns=62) -> dict[str, np.ndarray]:
    """Encoder weights that are the same to the last bit everywhere: integers of one byte over powers of two."""
    state = {}
    for name, like in weights(width=width, depth=depth, columns=columns).items():
        mean = float("norm" in name and name.endswith("weight"))
        scale = 0.25 if mean or name.endswith("bias") else 0.5 if like.ndim == 3 else float(like[0].size) ** -0.5
        state[name] = _exact(name, like.shape, scale) + np.float32(mean)
    return state


def exact_head(inputs: int) -> dict[str, np.ndarray]:
    """An AudioSet head, as exact as ``exact_weights``; ``inputs``: numbers in a vector."""
    names = {
        "module.head.norm.running_mean": (inputs,),
        "module.head.mlp.mlp.0.weight": (527, inputs),
        "module.head.mlp.mlp.0.bias": (527,),
    }
    return {name: _exact(name, shape, 0.25) for name, shape in names.items()} | {
        "module.head.norm.running_var": np.ones(inputs, np.float32)
    }


def _exact(name: str, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Multiples of a power of two, drawn from digests of the name, of a standard deviation near ``scale``."""
    size = int(np.prod(shape))
    blocks = b"".join(hashlib.sha256(f"{name} {block}".encode()).digest() for block in range(-(-size // 32)))
    integers = np.frombuffer(blocks, np.int8, size)  # standard deviation 74
    return np.ldexp(integers.astype(np.float32), round(math.log2(scale / 74))).reshape(shape)


def head(width: int, seed=1) -> dict[str, np.ndarray]:
    """An AudioSet head as fine-tuned files carry it."""
    rng = np.random.default_rng(seed)
    return {
        "module.head.norm.running_mean": rng.standard_normal(width).astype(np.float32),
        "module.head.norm.running_var": rng.uniform(0.5, 2, width).astype(np.float32),
        "module.head.mlp.mlp.0.weight": rng.standard_normal((527, width)).astype(np.float32) / 8,
        "module.head.mlp.mlp.0.bias": np.where(np.arange(527) == 191, 100, rng.standard_normal(527)).astype(
            np.float32
        ),  # all is music
    }


def clap(form: str, *, width=64, words=64, hidden=48, depth=2, qkv_bias=True, seed=2) -> dict[str, np.ndarray]:
    """The audio's side of a CLAP checkpoint by its published names; ``form``: mlp, semantic, or mean (no tensor)."""
    rng = np.random.default_rng(seed)

    def linear(name, out, inputs, bias=True):
        weight = rng.standard_normal((out, inputs), np.float32) * np.float32(2 * inputs**-0.5)
        found = {f"{name}.weight": weight}
        return found | ({f"{name}.bias": rng.standard_normal(out).astype(np.float32) / 4} if bias else {})

    def norm(name):
        gain = 1 + rng.standard_normal(width).astype(np.float32) / 5
        return {f"{name}.weight": gain, f"{name}.bias": rng.standard_normal(width).astype(np.float32) / 5}

    if form == "mlp":
        return linear("audio_proj.0", hidden, width) | linear("audio_proj.2", words, hidden)
    if form == "mean":
        return {}
    found = {"audio_proj.sem_token": rng.standard_normal((1, 1, width), np.float32)} | norm("audio_proj.norm")
    for i in range(depth):
        block = f"audio_proj.sem_blocks.{i}"
        found |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        found |= linear(f"{block}.attn.qkv", 3 * width, width, qkv_bias) | linear(f"{block}.attn.proj", width, width)
        found |= linear(f"{block}.mlp.fc1", hidden, width) | linear(f"{block}.mlp.fc2", width, hidden)
    return found


def text_side(*, words=64, width=64, hidden=None, seed=3) -> dict[str, np.ndarray]:
    """``text_proj`` by its published names: one linear layer, or two with ``hidden`` numbers between them."""
    rng = np.random.default_rng(seed)
    sizes = (
        [("text_proj.0", hidden, width), ("text_proj.2", words, hidden)] if hidden else [("text_proj", words, width)]
    )
    return {
        f"{name}.{part}": (rng.standard_normal((out, inputs) if part == "weight" else out) / 8).astype(np.float32)
        for name, out, inputs in sizes
        for part in ("weight", "bias")
    }


def published_state(state, *, prefix="", full=False, norm_stats=None, head_width=None, own_head=None) -> dict[str, Any]:
    """The state dictionary of torch tensors as it lies in a .pth."""
    import torch  # 1.5 s: not for the tests that need no checkpoint

    out = {prefix + key: torch.from_numpy(np.array(value)) for key, value in state.items()}
    width = state["cls_token"].shape[-1]
    if norm_stats is not None:
        out[prefix + "norm_stats"] = torch.tensor(norm_stats)
    if full:  # what files not called _enconly hold besides
        for key in ("mask_token", "decoder_pos_embed", "decoder_blocks.0.norm1.weight", "decoder_pred.bias",
                    "target_blocks.0.norm1.weight", "target_proj.weight"):  # fmt: skip
            out[prefix + key] = torch.full((1, 3, width), float("nan"))
    if head_width is not None or own_head is not None:
        out |= {key: torch.from_numpy(value) for key, value in (own_head or head(head_width)).items()}
    return out


def write_pth(path: Path, state: dict, *, args=False, legacy=False) -> Path:
    """Save a state dictionary as published: bare, or under 'model' beside the training's arguments."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    namespace = argparse.Namespace(lr=3e-4, input_size=[80, 608], model="m2d_vit_base", output_dir=None)
    content = {"model": state, "optimizer": {"step": 3}, "epoch": 299, "args": namespace} if args else state
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def write_folder(folder: Path, state: dict, *, name=NAME_608, file="checkpoint-300.pth", args=True) -> Path:
    """Write folder/name/file; return folder/name."""
    return write_pth(folder / name / file, state, args=args).parent


def write_zip(folder: Path, state: dict, *, name=NAME_608, file="checkpoint-300.pth", args=True) -> Path:
    """Write folder/name.zip holding name/file, as the release assets do."""
    unpacked = write_folder(folder / "unpacked", state, name=name, file=file, args=args)
    with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.mkdir(name)
        archive.write(unpacked / file, f"{name}/{file}")
    return folder / f"{name}.zip"


def bert(vocabulary: int, *, width=64, depth=2, positions=40, seed=4, prefix="") -> dict[str, np.ndarray]:
    """A small BERT by its published names."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape, np.float32) * np.float32(0.3 if len(shape) == 2 else 0.1)

    found = {
        "embeddings.word_embeddings.weight": normal(vocabulary, width),
        "embeddings.position_embeddings.weight": normal(positions, width),
        "embeddings.token_type_embeddings.weight": normal(2, width),
        "embeddings.LayerNorm.weight": 1 + normal(width),
        "embeddings.LayerNorm.bias": normal(width),
    }
    for i in range(depth):
        layer = f"encoder.layer.{i}"
        for name, out, inputs in (
            ("attention.self.query", width, width), ("attention.self.key", width, width),
            ("attention.self.value", width, width), ("attention.output.dense", width, width),
            ("intermediate.dense", 2 * width, width), ("output.dense", width, 2 * width),
        ):  # fmt: skip
            found |= {f"{layer}.{name}.weight": normal(out, inputs), f"{layer}.{name}.bias": normal(out)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            found |= {f"{layer}.{name}.weight": 1 + normal(width), f"{layer}.{name}.bias": normal(width)}
    return {prefix + name: value for name, value in found.items()}
