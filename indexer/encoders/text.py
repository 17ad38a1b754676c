"""Turns texts into vectors in the space of an encoder's audio vectors, through `transformers` (the extra ``words``).

Loads files that are installed, and never asks the network for anything. Imports torch and transformers when a tower is
made: import it in a process that may.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from indexer.encoders import bert
from indexer.encoders.huggingface import transformers
from indexer.encoders.m2d.checkpoint import load_text
from indexer.encoders.m2d.words import BERT, TEXT, bert_from_shapes
from indexer.errors import ModelError

MAX_CHARACTERS = 200_000  # of a text; the encoder reads its first tokens only
BATCH_TEXTS = 16
NO_TRANSFORMERS = (
    "texts need the extra: pip install 'edm-indexer[words]' (listed words do without, once their vectors are kept)"
)


class Tower(Protocol):
    """Makes vectors of texts."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, words) float32 of length one. Raises ModelError for a text that says nothing."""
        ...


def cleaned(text: str) -> str:
    """The text without control characters. Raises ModelError where nothing is left, or it is longer than any use."""
    if len(text) > MAX_CHARACTERS:
        raise ModelError(f"a text of {len(text):,} characters: say it in fewer words")
    shown = " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())  # as BERT's tokenizer does
    if not shown:
        raise ModelError('no words: say what to look for, such as "melancholic dub techno with deep chords"')
    return shown


class BertTower:
    """BERT, pooling, and the layers after them."""

    def __init__(self, checkpoint: Path, text_encoder: Path | None, vocabulary: Path) -> None:
        """``text_encoder``: where the checkpoint does not include it. Raises ModelError for files that do not fit."""
        library = transformers(NO_TRANSFORMERS)
        import torch

        info, weights = load_text(checkpoint)
        assert info.text is not None
        if text_encoder is not None:
            weights |= bert.load(text_encoder)
        shape = bert_from_shapes({key: array.shape for key, array in weights.items()})
        if shape is None or shape.width != info.text.width:
            found = f"{shape.width}: `indexer models add FILE` takes GTE base's model.safetensors" if shape else "none"
            raise ModelError(
                f"{checkpoint}: needs a text encoder of {info.text.width} numbers a token, and has {found}"
            )
        self._pooling = info.text.pooling
        self._tokenizer = tokenizer(bert.check_vocabulary(vocabulary, shape), shape.positions)
        config = library.BertConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            num_hidden_layers=shape.depth,
            num_attention_heads=shape.heads,
            intermediate_size=shape.mlp_width,
            max_position_embeddings=shape.positions,
            type_vocab_size=shape.types,
        )
        self._bert = library.BertModel(config, add_pooling_layer=False)
        tensors = {key: torch.from_numpy(array) for key, array in weights.items()}
        own = {key.removeprefix(BERT): tensor for key, tensor in tensors.items() if key.startswith(BERT)}
        self._bert.load_state_dict(own, assign=True)
        self._bert.eval()
        names = sorted({key.removesuffix("weight").removesuffix("bias") for key in tensors if key.startswith(TEXT)})
        self._layers = [(tensors[f"{name}weight"], tensors[f"{name}bias"]) for name in names]
        self._torch = torch

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """See Tower."""
        torch = self._torch
        found = []
        for start in range(0, len(texts), BATCH_TEXTS):
            encoded = self._tokenizer.encode_batch([cleaned(text) for text in texts[start : start + BATCH_TEXTS]])
            ids = torch.tensor([one.ids for one in encoded])
            mask = torch.tensor([one.attention_mask for one in encoded])
            with torch.inference_mode():
                hidden = self._bert(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, N, C)
                x = hidden[:, 0]
                if self._pooling == "mean":
                    x = (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
                for number, (weight, bias) in enumerate(self._layers):
                    x = torch.nn.functional.linear(torch.relu(x) if number else x, weight, bias)
                found.append(torch.nn.functional.normalize(x, dim=1).numpy())
        return np.concatenate(found).astype(np.float32)


def tokenizer(tokens: Sequence[str], positions: int) -> Any:
    """BERT's tokenizer, lower case, as bert-base-uncased has it: cuts texts to ``positions`` tokens and pads them."""
    from tokenizers import BertWordPieceTokenizer

    made = BertWordPieceTokenizer({token: number for number, token in enumerate(tokens)}, lowercase=True)
    made.enable_truncation(positions)
    made.enable_padding(pad_id=tokens.index("[PAD]"))
    return made
