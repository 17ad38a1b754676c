"""The library `transformers` (the extra ``words``), kept off the network."""

import importlib.util
import os
from typing import Any

from indexer.errors import ModelError


def transformers(without: str) -> Any:
    """The library. Raises ModelError where it is missing or damaged; ``without``: the line that tells the way."""
    if importlib.util.find_spec("transformers") is None:
        raise ModelError(without)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        import transformers as library
        from transformers import BertConfig, BertModel, ClapModel  # noqa: F401 - loaded lazily: a broken install shows
    except Exception as error:  # whatever its many dependencies raise
        why = " ".join(str(error).split())[:200]
        raise ModelError(f"transformers cannot be loaded ({why}): {without}") from error
    return library
