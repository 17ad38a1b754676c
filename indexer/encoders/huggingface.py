"""The library `transformers` (the extra ``words``), kept off the network."""

import os
from typing import Any

from indexer.errors import ModelError


def transformers(without: str) -> Any:
    """The library. Raises ModelError where it is missing or damaged; ``without``: the line that tells the way."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        import tokenizers  # noqa: F401
        import transformers as library
        from transformers import BertConfig, BertModel, ClapModel  # noqa: F401 - loaded lazily: a broken install shows
    except Exception as error:  # whatever its many dependencies raise
        if isinstance(error, ModuleNotFoundError) and error.name in ("tokenizers", "transformers"):
            raise ModelError(without) from error
        why = " ".join(str(error).split())[:200]
        raise ModelError(f"transformers cannot be loaded ({why}): {without}") from error
    return library
