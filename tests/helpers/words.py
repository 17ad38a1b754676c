"""Made-up models whose sound and text share a space: their checkpoints and a vocabulary."""

from pathlib import Path

from tests.helpers import checkpoints

_TEXT = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 ! , . ' & 音 "
    "##a ##b ##c ##d ##e ##f ##g ##h ##i ##j ##k ##l ##m ##n ##o ##p ##q ##r ##s ##t ##u ##v ##w ##x ##y ##z "
    "the sound of music with dub techno deep house melancholic chords ##ic ##ly"
)
TOKENS = _TEXT.split()
IN_CHECKPOINT = "text_encoder.text_encoder."


def clap_2025(*, depth=1, **changes):
    """The published state of a checkpoint with a semantic network and its own BERT, whose vectors are narrow."""
    state = checkpoints.weights(columns=62, depth=depth) | checkpoints.clap("semantic", depth=1)
    state |= checkpoints.text_side(hidden=24) | checkpoints.bert(len(TOKENS), prefix=IN_CHECKPOINT)
    return {key: value for key, value in (state | changes).items() if value is not None}


def clap_2024(*, depth=1, **changes):
    """The published state of a checkpoint with an MLP and no text encoder."""
    state = checkpoints.weights(columns=38, depth=depth) | checkpoints.clap("mlp", words=32)
    state |= checkpoints.text_side(words=32)
    return {key: value for key, value in (state | changes).items() if value is not None}


def write_vocabulary(folder: Path, tokens=TOKENS) -> Path:
    """A vocabulary file as BERT's are published."""
    path = folder / "vocab.txt"
    path.write_text("\n".join(tokens) + "\n")
    return path
