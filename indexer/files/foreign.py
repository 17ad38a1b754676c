"""What others wrote, checked before it is used: JSON, and texts that become names.

Model files, heads, tags, status files and manifests may come from anybody. Nothing here imports anything of ours.
"""

import json
from typing import Any

NAME_CHARS = 100
JSON_LEVELS = 64  # of lists and objects within each other; our own files have five


def parse_json(text: str | bytes | bytearray) -> Any:
    """The value of a JSON text.

    Raises ValueError for every text that has none, for one that is nested deeper than JSON_LEVELS, and for one with a
    lone surrogate, which nothing can store or print.
    """
    try:
        value = json.loads(text)
        level = [value]
        for _ in range(JSON_LEVELS):
            lists = [
                item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)
            ]
            level = [item for items in lists for item in items]
        if level:
            raise ValueError("nested too deep")
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return value


def is_name(text: object, at_most: int = NAME_CHARS) -> bool:
    """Whether this is a text that can name something: printable, not blank, of at most so many characters."""
    return isinstance(text, str) and len(text) <= at_most and text.isprintable() and bool(text.strip())
