"""Turns texts into vectors in the space of LAION-CLAP's audio vectors, through ``transformers``."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from indexer.encoders.clap.checkpoint import load_text
from indexer.encoders.huggingface import transformers
from indexer.encoders.text import BATCH_TEXTS, NO_TRANSFORMERS, cleaned


class ClapTower:
    """RoBERTa, and the projection after it; all of it is in the checkpoint."""

    def __init__(self, checkpoint: Path) -> None:
        """Raises ModelError for a checkpoint that was damaged or edited, and without the extra."""
        transformers(NO_TRANSFORMERS)
        from indexer.encoders.clap import model

        info, weights, tokens, merges = load_text(checkpoint)
        self._positions = info.description.positions
        self._tokenizer = model.tokenizer(info.description, tokens, merges)
        self._network = model.text_side(info.description, weights)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, words) float32 of length one; a text is cut after the last position. Raises ModelError as ``cleaned``."""
        import torch

        found = []
        for start in range(0, len(texts), BATCH_TEXTS):
            inputs = self._tokenizer(
                [cleaned(text) for text in texts[start : start + BATCH_TEXTS]],
                padding=True,
                truncation=True,
                max_length=self._positions,
                return_tensors="pt",
            )
            with torch.inference_mode():
                made = self._network(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
                found.append(torch.nn.functional.normalize(made.text_embeds, dim=-1).numpy())
        return np.concatenate(found).astype(np.float32)
