"""The registry of built-in encoders; loads an encoder by its name or by the path of a checkpoint.

A new built-in encoder is a module in this package and a line in ``BUILT_IN``. An encoder's module is imported only when
it is asked for, so that commands which show information never import torch.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from indexer.encoders import checkpoints
from indexer.encoders.encoder import Encoder, EncoderInfo


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """An encoder that needs no download. Importing its module and making the encoder must not import torch."""

    module: str  # in indexer.encoders, with a function encoder_id
    encoder: str  # its class, which takes no arguments and has its other facts as class attributes
    use: str  # its purpose in one phrase, for `models list`


# name, as in --encoder and in the library -> encoder
BUILT_IN = {
    "rhythm": BuiltIn(
        "rhythm", "RhythmEncoder", "no download: rhythm and loudness statistics, for training your own heads"
    ),
    "musicnn": BuiltIn(
        "musicnn.encoder", "MusicnnEncoder", "no download: trained to tag real music, for training your own heads"
    ),
}
DEFAULT = "musicnn"  # used while no model is installed or chosen


def built_in_info(name: str = DEFAULT) -> EncoderInfo:
    """Describe a built-in encoder, without its weights. Raises KeyError for a name that is not in ``BUILT_IN``."""
    module = _module(name)
    encoder = getattr(module, BUILT_IN[name].encoder)
    return EncoderInfo(
        module.encoder_id(), name, encoder.width, encoder.sample_rate_hz, encoder.unit_s, name, built_in=True
    )


def is_built_in(encoder_id: str) -> bool:
    """Whether a built-in encoder has this id, in any variant."""
    return any(built_in_info(name).variant_of(encoder_id) for name in BUILT_IN)


def load_encoder(source: str | Path, *, device: str = "auto", precision: str = "auto") -> Encoder:
    """Load a built-in encoder by its name, or a converted checkpoint (``model.safetensors``) by its path.

    device: auto (cuda, else mps, else cpu), cpu, cuda or mps. precision: auto (bf16 on cuda and on processors that
    multiply it, fp32 elsewhere and for LAION-CLAP), fp32, bf16 or int8. A built-in encoder ignores both. Raises
    ModelError for a file that is damaged or not ours, an unknown option, a missing device or extra.
    """
    if isinstance(source, str) and source in BUILT_IN:
        encoder: Encoder = getattr(_module(source), BUILT_IN[source].encoder)()
        return encoder
    return checkpoints.load(Path(source), device=device, precision=precision)


def _module(name: str) -> Any:
    return import_module(f"indexer.encoders.{BUILT_IN[name].module}")
