"""CLAP's parts as ``transformers`` has them, built from a description and given their weights. Imports torch.

Everything here is computed by ``transformers`` itself, so that vectors are its own to the last bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from indexer.encoders.clap.description import NEEDS_EXTRA, Description
from indexer.encoders.huggingface import transformers
from indexer.errors import ModelError

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # of RoBERTa's tokenizer


def expected_shapes(description: Description) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that vectors depend on, by its published name. Takes no memory for them.

    Raises ModelError where the sizes do not fit each other, or the front end.
    """
    library = transformers(NEEDS_EXTRA)
    try:
        with torch.device("meta"), torch.inference_mode():
            model = library.ClapModel(_config(description)).eval()
            mels = torch.empty(1, 1, description.unit_frames, description.front_end["feature_size"])
            model.audio_projection(model.audio_model(input_features=mels).pooler_output)
    except Exception as error:  # whatever sizes that do not fit raise
        why = " ".join(str(error).split())[:160]
        raise ModelError(f"config.json: its sizes do not fit each other, or those of the front end ({why})") from error
    return {
        key: tuple(tensor.shape)
        for key, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not key.startswith("logit_scale")
    }


def audio_side(description: Description, weights: Mapping[str, np.ndarray]) -> Any:
    """The network from spectrograms to vectors: ClapAudioModelWithProjection."""
    library = transformers(NEEDS_EXTRA)
    return _loaded(library.ClapAudioModelWithProjection(_config(description).audio_config), weights)


def text_side(description: Description, weights: Mapping[str, np.ndarray]) -> Any:
    """The network from tokens to vectors: ClapTextModelWithProjection."""
    library = transformers(NEEDS_EXTRA)
    return _loaded(library.ClapTextModelWithProjection(_config(description).text_config), weights)


def front_end(description: Description) -> Any:
    """What turns samples into spectrograms: ClapFeatureExtractor."""
    return transformers(NEEDS_EXTRA).ClapFeatureExtractor(**description.front_end)


def tokenizer(description: Description, tokens: Sequence[str], merges: Sequence[tuple[str, str]]) -> Any:
    """RobertaTokenizer. Raises ModelError for tokens of another vocabulary than the text encoder's."""
    size, padding = description.text["vocab_size"], description.text["pad_token_id"]
    if not set(SPECIAL) <= set(tokens) or tokens[padding : padding + 1] != ["<pad>"]:
        raise ModelError(f"its tokenizer is not RoBERTa's: {', '.join(SPECIAL)} are not where they belong")
    if len(tokens) != size:
        raise ModelError(f"a tokenizer of {len(tokens):,} tokens, and the text encoder has {size:,}: it is another's")
    library = transformers(NEEDS_EXTRA)
    try:
        return library.RobertaTokenizer(
            vocab={token: number for number, token in enumerate(tokens)}, merges=list(merges)
        )
    except Exception as error:  # whatever the library raises for merges of tokens that are not there
        why = " ".join(str(error).split())[:160]
        raise ModelError(f"its tokenizer's merges do not fit its tokens ({why})") from error


def _config(description: Description) -> Any:
    of = asdict(description)
    return transformers(NEEDS_EXTRA).ClapConfig(audio_config=of["audio"], text_config=of["text"], **of["projection"])


def _loaded(module: Any, weights: Mapping[str, np.ndarray]) -> Any:
    tensors = {key: torch.from_numpy(array) for key, array in weights.items()}
    try:  # copied, not assigned: the kernels round differently where memory is aligned as in the file
        result = module.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise ModelError("its weights do not fit its description: add the checkpoint again") from error
    state = module.state_dict()
    if result.unexpected_keys or any(state[key].is_floating_point() for key in result.missing_keys):
        raise ModelError("its weights do not fit its description: add the checkpoint again")
    return module.eval().requires_grad_(False)
