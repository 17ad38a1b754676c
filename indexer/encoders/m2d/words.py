"""What a CLAP checkpoint holds beside the encoder: the way from patch tokens, and from text, to the space of words.

Derives both from tensor shapes and checks every shape. Plain dataclasses and arithmetic, as in geometry.py: never reads
a file or holds a tensor. Source of the forms: M2D-CLAP (Niizumi et al. 2024, 2025) and its published checkpoints.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from indexer.encoders.m2d.geometry import HEAD_WIDTH, MAX_DEPTH, MAX_WIDTH, Geometry, Shape, block_shapes
from indexer.errors import ModelError

AUDIO, TEXT, BERT = "audio_proj.", "text_proj.", "bert."  # the first letters of the tensors' names in our files
MAX_HIDDEN = 8 * MAX_WIDTH
MAX_VOCABULARY, MAX_POSITIONS = 300_000, 8_192  # of a text encoder; BERT base has 30,522 and 512


@dataclass(frozen=True, slots=True)
class Projection:
    """The layers from the patch tokens of a unit to its audio vector."""

    form: str  # mlp: of their mean, linear-ReLU-linear; semantic: blocks that collect them in a token; mean: none
    width: int  # numbers in an audio vector, and in a text's
    hidden: int = 0  # of the MLP, or of the MLP in each block
    depth: int = 0  # semantic blocks

    def shapes(self, geometry: Geometry) -> dict[str, Shape]:
        """The shape of every tensor, by its name in our file."""
        c = geometry.width
        if self.form == "mean":
            return {}
        if self.form == "mlp":
            return {
                f"{AUDIO}0.weight": (self.hidden, c), f"{AUDIO}0.bias": (self.hidden,),
                f"{AUDIO}2.weight": (self.width, self.hidden), f"{AUDIO}2.bias": (self.width,),
            }  # fmt: skip
        shapes: dict[str, Shape] = {
            f"{AUDIO}sem_token": (1, 1, c),
            f"{AUDIO}norm.weight": (c,),
            f"{AUDIO}norm.bias": (c,),
        }
        return shapes | block_shapes(f"{AUDIO}sem_blocks", self.depth, c, self.hidden)


@dataclass(frozen=True, slots=True)
class TextTower:
    """The layers from a text to its vector. The encoder itself is BERT's, with its weights or without."""

    pooling: str  # first: BERT's vector of the first token; mean: of all tokens; none: another encoder than BERT
    width: int  # numbers in a token of the encoder
    layers: tuple[tuple[int, int], ...]  # (outputs, inputs) of each linear layer after it, ReLU between them; may be ()
    included: bool  # whether the encoder's weights are in the file

    def shapes(self) -> dict[str, Shape]:
        """The shape of every tensor of the layers after the encoder."""
        found: dict[str, Shape] = {}
        for name, (outputs, inputs) in zip(_layer_names(len(self.layers)), self.layers, strict=True):
            found |= {f"{TEXT}{name}weight": (outputs, inputs), f"{TEXT}{name}bias": (outputs,)}
        return found


@dataclass(frozen=True, slots=True)
class Bert:
    """The shape of a BERT."""

    vocabulary: int  # tokens
    positions: int  # tokens of the longest text
    types: int
    width: int
    heads: int
    mlp_width: int
    depth: int

    def shapes(self) -> dict[str, Shape]:
        """The shape of every tensor that its vectors depend on, by its name in our file."""
        c, m = self.width, self.mlp_width
        found: dict[str, Shape] = {
            "embeddings.word_embeddings.weight": (self.vocabulary, c),
            "embeddings.position_embeddings.weight": (self.positions, c),
            "embeddings.token_type_embeddings.weight": (self.types, c),
            "embeddings.LayerNorm.weight": (c,),
            "embeddings.LayerNorm.bias": (c,),
        }
        layers: dict[str, Shape] = {
            "attention.self.query": (c, c), "attention.self.key": (c, c), "attention.self.value": (c, c),
            "attention.output.dense": (c, c), "attention.output.LayerNorm": (c,),
            "intermediate.dense": (m, c), "output.dense": (c, m), "output.LayerNorm": (c,),
        }  # fmt: skip
        for layer in range(self.depth):
            for name, shape in layers.items():
                found[f"encoder.layer.{layer}.{name}.weight"] = shape
                found[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
        return {BERT + name: shape for name, shape in found.items()}


def projection_from_shapes(shapes: Mapping[str, Shape], geometry: Geometry) -> Projection | None:
    """The projection of a checkpoint's tensors; None for one without words.

    Raises ModelError naming the first key that is missing, has the wrong shape, or is not part of a known form.
    """
    own = {key: tuple(shape) for key, shape in shapes.items() if key.startswith(AUDIO)}
    if not own and not any(key.startswith(TEXT) for key in shapes):
        if any(key.startswith(BERT) for key in shapes):
            raise ModelError("audio_proj, text_proj: missing from the checkpoint, although it holds a text encoder")
        return None
    if any(key.startswith(f"{AUDIO}sem_") for key in own):
        blocks = {int(m[1]) for key in own if (m := re.match(r"audio_proj\.sem_blocks\.(\d{1,4})\.", key))}
        if not blocks or max(blocks) >= MAX_DEPTH:
            raise ModelError(f"audio_proj.sem_blocks: {len(blocks)} blocks, where 1 to {MAX_DEPTH} are expected")
        hidden = _matrix(own, f"{AUDIO}sem_blocks.0.mlp.fc1.weight")[0]
        found = Projection("semantic", geometry.width, hidden, max(blocks) + 1)
    elif own:
        hidden, width = _matrix(own, f"{AUDIO}0.weight")[0], _matrix(own, f"{AUDIO}2.weight")[0]
        found = Projection("mlp", width, hidden)
    else:
        found = Projection("mean", geometry.width)
    if not 0 < found.width <= MAX_WIDTH or found.hidden > MAX_HIDDEN:
        raise ModelError(f"audio_proj: {found.width} is no width of an audio vector")
    _check(own, found.shapes(geometry))
    return found


def text_tower_from_shapes(shapes: Mapping[str, Shape], pooling: str, width: int) -> TextTower:
    """What a checkpoint holds of the text's side; ``width``: of the audio vectors. Raises ModelError as above."""
    own = {key: tuple(shape) for key, shape in shapes.items() if key.startswith(TEXT)}
    bert = bert_from_shapes(shapes)
    names = _layer_names(2 if f"{TEXT}0.weight" in own else 1 if own else 0)
    layers = tuple(_matrix(own, f"{TEXT}{name}weight") for name in names)
    inputs = layers[0][1] if layers else width
    found = TextTower(pooling, inputs, layers, bert is not None)
    _check(own, found.shapes())
    taken = [*(inputs for _, inputs in layers), width]  # by each layer, then by the comparison
    for (outputs, _), following in zip(layers, taken[1:], strict=True):
        if outputs != following or outputs > MAX_HIDDEN:
            raise ModelError(f"text_proj: {outputs} numbers for a text where {following} are expected")
    if bert is not None and bert.width != inputs:
        raise ModelError(f"text_proj: takes {inputs} numbers from a text encoder that gives {bert.width}")
    return found


def bert_from_shapes(shapes: Mapping[str, Shape]) -> Bert | None:
    """The shape of the BERT among a file's tensors; None where there is none. Raises ModelError as above."""
    own = {key: tuple(shape) for key, shape in shapes.items() if key.startswith(BERT)}
    if not own:
        return None
    vocabulary, width = _matrix(own, f"{BERT}embeddings.word_embeddings.weight")
    positions, _ = _matrix(own, f"{BERT}embeddings.position_embeddings.weight")
    types, _ = _matrix(own, f"{BERT}embeddings.token_type_embeddings.weight")
    layers = {int(m[1]) for key in own if (m := re.match(r"bert\.encoder\.layer\.(\d{1,4})\.", key))}
    if not layers or max(layers) >= MAX_DEPTH:
        raise ModelError(f"the text encoder has {len(layers)} layers, where 1 to {MAX_DEPTH} are expected")
    mlp_width, _ = _matrix(own, f"{BERT}encoder.layer.0.intermediate.dense.weight")
    if not 0 < width <= MAX_WIDTH or width % HEAD_WIDTH or mlp_width > 8 * width:
        raise ModelError(f"the text encoder's width of {width} is none of BERT's (a multiple of {HEAD_WIDTH})")
    if vocabulary > MAX_VOCABULARY or positions > MAX_POSITIONS or types > 16:  # far above any published one
        raise ModelError(f"the text encoder claims {vocabulary:,} words and {positions:,} positions")
    found = Bert(vocabulary, positions, types, width, width // HEAD_WIDTH, mlp_width, max(layers) + 1)
    _check(own, found.shapes())
    return found


def pooling_of(hints: Sequence[str], *, included: bool) -> str:
    """How a model's name says that a text's vector is made: first, mean, or none for an encoder that is not BERT's.

    The letter after the sample rate is the text encoder: A is GTE base (mean), B BERT base (first token), N NV-Embed.
    The oldest names have none and mean A. Without such a name it depends on whether the weights are included.
    """
    found = next((m for hint in hints if (m := re.search(r"p\d+kp([A-Z])", hint, re.ASCII))), None)
    letter = found[1] if found else "B" if included else "A"
    return {"A": "mean", "B": "first"}.get(letter, "none")


def _layer_names(layers: int) -> tuple[str, ...]:
    return ((), ("",), ("0.", "2."))[layers]


def _matrix(shapes: Mapping[str, Shape], key: str) -> tuple[int, int]:
    if key not in shapes:
        raise ModelError(f"{_published(key)}: missing from the checkpoint")
    if len(shapes[key]) != 2 or 0 in shapes[key]:
        raise ModelError(f"{_published(key)}: shape {list(shapes[key])} where a matrix is expected")
    rows, columns = shapes[key]
    return rows, columns


def _check(own: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    for key, shape in expected.items():
        if key not in own:
            raise ModelError(f"{_published(key)}: missing from the checkpoint")
        if own[key] != shape:
            raise ModelError(f"{_published(key)}: shape {list(own[key])} where {list(shape)} is expected")
    for key in own:
        if key not in expected:
            raise ModelError(f"{_published(key)}: not part of a known form, so its result would be wrong")


def _published(key: str) -> str:
    """A tensor's name as it stands in a published checkpoint."""
    return key.replace(BERT, "text_encoder.text_encoder.", 1) if key.startswith(BERT) else key
