"""The numbers that say what a CLAP model is: of its config.json, and of its front end's preprocessor_config.json.

Takes the fields that decide a vector, bounds each, and gives those left out the defaults of ``transformers`` 5
(ClapAudioConfig, ClapTextConfig, ClapConfig, ClapFeatureExtractor). Plain arithmetic: never reads a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from indexer.errors import ModelError

MAX_WIDTH, MAX_DEPTH = 4096, 64  # numbers in a token, layers; the published models have at most 1024 and 12
MAX_VOCABULARY, MAX_POSITIONS = 300_000, 8_192  # of the text encoder; RoBERTa base has 50,265 and 514
NEEDS_EXTRA = "LAION-CLAP needs the extra: pip install 'edm-indexer[words]'"
ACTIVATIONS = ("gelu", "relu", "gelu_new", "silu")

_Bounds = tuple[Any, float, float]  # default, least, most

# Fields of whole numbers, or pairs and lists of them where the default is a list: default, least, most.
_AUDIO_INTEGERS: dict[str, _Bounds] = {
    "window_size": (8, 1, 64),
    "num_mel_bins": (64, 1, 512),
    "spec_size": (256, 1, 2048),
    "patch_size": ([4, 4], 1, 64),
    "patch_stride": ([4, 4], 1, 64),
    "hidden_size": (768, 1, MAX_WIDTH),
    "depths": ([2, 2, 6, 2], 1, MAX_DEPTH),
    "num_attention_heads": ([4, 8, 16, 32], 1, 256),
    "patch_embeds_hidden_size": (96, 1, MAX_WIDTH),
}
_TEXT_INTEGERS: dict[str, _Bounds] = {
    "vocab_size": (50265, 1, MAX_VOCABULARY),
    "hidden_size": (768, 1, MAX_WIDTH),
    "num_hidden_layers": (12, 1, MAX_DEPTH),
    "num_attention_heads": (12, 1, 256),
    "intermediate_size": (3072, 1, 8 * MAX_WIDTH),
    "max_position_embeddings": (514, 4, MAX_POSITIONS),
    "type_vocab_size": (1, 1, 16),
    "pad_token_id": (1, 0, MAX_VOCABULARY),
}
_FRONT_END_INTEGERS: dict[str, _Bounds] = {
    "feature_size": (64, 1, 512),
    "sampling_rate": (48_000, 8_000, 192_000),
    "hop_length": (480, 16, 16_384),
    "max_length_s": (10, 1, 60),
    "fft_window_size": (1024, 32, 16_384),
}
_AUDIO_NUMBERS: dict[str, _Bounds] = {"mlp_ratio": (4.0, 0.1, 16), "layer_norm_eps": (1e-5, 0, 1)}
_TEXT_NUMBERS: dict[str, _Bounds] = {"layer_norm_eps": (1e-12, 0, 1)}
_FRONT_END_NUMBERS: dict[str, _Bounds] = {"frequency_min": (0, 0, 96_000), "frequency_max": (14_000, 1, 96_000)}
_OTHER = "take laion/larger_clap_music, or another checkpoint without feature fusion"


@dataclass(frozen=True, slots=True)
class Description:
    """All that decides the vectors, beside weights and tokenizer; the keys are those of ``transformers``."""

    audio: dict[str, Any]
    text: dict[str, Any]
    projection: dict[str, Any]
    front_end: dict[str, Any]

    @property
    def unit_samples(self) -> int:
        """Samples in a full unit."""
        return int(self.front_end["max_length_s"] * self.front_end["sampling_rate"])

    @property
    def unit_frames(self) -> int:
        """Frames of the spectrogram of a unit."""
        return self.unit_samples // int(self.front_end["hop_length"]) + 1

    @property
    def positions(self) -> int:
        """Tokens of the longest text: RoBERTa counts positions from behind that of the padding."""
        return int(self.text["max_position_embeddings"] - self.text["pad_token_id"] - 1)


def described(config: Mapping[str, Any], front_end: Mapping[str, Any]) -> Description:
    """Take what is used of config.json and preprocessor_config.json.

    Raises ModelError, which names the field, for values that are out of bounds or do not fit each other.
    """
    audio_given, text_given = _part(config, "audio_config"), _part(config, "text_config")
    audio = _integers(audio_given, _AUDIO_INTEGERS) | _numbers(audio_given, _AUDIO_NUMBERS)
    audio |= {"hidden_act": _activation(audio_given, "hidden_act", "gelu")}
    audio |= {key: _flag(audio_given, key) for key in ("enable_patch_layer_norm", "qkv_bias")}
    text = _integers(text_given, _TEXT_INTEGERS) | _numbers(text_given, _TEXT_NUMBERS)
    text |= {"hidden_act": _activation(text_given, "hidden_act", "gelu")}
    projection = _integers(config, {"projection_dim": (512, 1, MAX_WIDTH)})
    projection |= {"projection_hidden_act": _activation(config, "projection_hidden_act", "relu")}
    numbers = _integers(front_end, _FRONT_END_INTEGERS) | _numbers(front_end, _FRONT_END_NUMBERS)
    numbers |= {"truncation": front_end.get("truncation", "fusion"), "padding": front_end.get("padding", "repeatpad")}
    found = Description(audio, text, projection, numbers)
    _check(found, audio_given)
    return found


def _check(found: Description, audio_given: Mapping[str, Any]) -> None:
    audio, numbers = found.audio, found.front_end
    if audio_given.get("enable_fusion", False) is not False or audio_given.get("patch_embed_input_channels", 1) != 1:
        raise ModelError(f"it hears parts of a long clip that chance chooses (feature fusion): {_OTHER}")
    if numbers["truncation"] != "rand_trunc":
        raise ModelError(f"truncation: {str(numbers['truncation'])!r:.40} is that of feature fusion: {_OTHER}")
    if numbers["padding"] not in ("repeatpad", "repeat", "pad"):
        raise ModelError(f"padding: {str(numbers['padding'])!r:.40} is none of repeatpad, repeat, pad")
    if len(audio["depths"]) > 8 or len(audio["num_attention_heads"]) != len(audio["depths"]):
        raise ModelError("depths, num_attention_heads: one number for each of at most 8 stages is expected")
    if audio["hidden_size"] != audio["patch_embeds_hidden_size"] * 2 ** (len(audio["depths"]) - 1):
        raise ModelError("hidden_size: not patch_embeds_hidden_size, doubled at each stage but the first")
    if found.text["hidden_size"] % found.text["num_attention_heads"]:
        raise ModelError("hidden_size: no multiple of num_attention_heads in text_config")
    if numbers["feature_size"] != audio["num_mel_bins"]:
        raise ModelError(f"feature_size: {numbers['feature_size']} bands where num_mel_bins is {audio['num_mel_bins']}")
    if not numbers["frequency_min"] < numbers["frequency_max"] <= numbers["sampling_rate"] / 2:
        raise ModelError("frequency_min, frequency_max: no range of frequencies below half the sampling_rate")
    if found.positions < 2 or found.text["pad_token_id"] >= found.text["vocab_size"]:
        raise ModelError("pad_token_id: leaves no room for a text, or is none of the vocabulary's")


def _part(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = config.get(key)
    if not isinstance(part, dict):
        raise ModelError(f"{key}: missing")
    return part


def _integers(given: Mapping[str, Any], fields: Mapping[str, _Bounds]) -> dict[str, Any]:
    found = {}
    for key, (default, least, most) in fields.items():
        value = given.get(key, default)
        many = isinstance(default, list)
        if many and key.startswith("patch") and type(value) is int:
            value = [value, value]
        items = list(value) if many and isinstance(value, list | tuple) else [value]
        if not items or any(type(item) is not int or not least <= item <= most for item in items):
            raise ModelError(f"{key}: {str(value)[:40]} where whole numbers from {least} to {most} are expected")
        if key.startswith("patch") and many and len(items) != 2:
            raise ModelError(f"{key}: {len(items)} numbers where two are expected")
        found[key] = items if many else items[0]
    return found


def _numbers(given: Mapping[str, Any], fields: Mapping[str, _Bounds]) -> dict[str, Any]:
    found = {}
    for key, (default, least, most) in fields.items():
        value = given.get(key, default)
        if type(value) not in (int, float) or not least <= value <= most:
            raise ModelError(f"{key}: {str(value)[:40]} where a number from {least} to {most} is expected")
        found[key] = value
    return found


def _activation(given: Mapping[str, Any], key: str, default: str) -> str:
    value = given.get(key, default)
    if value not in ACTIVATIONS:
        raise ModelError(f"{key}: {str(value)!r:.40} is none of {', '.join(ACTIVATIONS)}")
    return str(value)


def _flag(given: Mapping[str, Any], key: str) -> bool:
    value = given.get(key, True)
    if not isinstance(value, bool):
        raise ModelError(f"{key}: {str(value)[:40]} where true or false is expected")
    return value
