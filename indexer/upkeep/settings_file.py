"""Writes settings into the settings file, and leaves everything else in it as it is."""

import contextlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from indexer.config import read_toml
from indexer.errors import ConfigError
from indexer.files.replace import replace_text


def keep(path: Path, values: Mapping[str, Any]) -> None:
    """Write settings into the file; everything else in it stays as it is, comments too. It may not exist yet.

    values: {key: text, whole number or list of text}. Raises ConfigError where the file cannot be read or written, or
    would not say the same of all other settings afterwards.
    """
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:
        raise ConfigError(f"{path}: a settings file holds UTF-8 only, so it cannot hold {dict(values)}") from e
    path = path.resolve()  # a link stays one
    before = read_toml(path) if path.exists() else {}
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for key, value in values.items():
        line = f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
        old = _statement(text, key)
        text = text.replace(old, line, 1) if old else line + text  # at the top: what follows a table belongs to it
    try:
        right = tomllib.loads(text) == {**before, **values}
    except tomllib.TOMLDecodeError:
        right = False
    if not right:
        raise ConfigError(f"{path}: set {' and '.join(values)} there by hand; the file cannot be changed safely")
    replace_text(path, text)


def _statement(text: str, key: str) -> str | None:
    """The lines that set a key, which may be a list over several lines; None where it is not set at the top level."""
    lines = text.splitlines(keepends=True)
    for first, line in enumerate(lines):
        if line.lstrip().startswith("["):
            return None
        if line.split("=")[0].strip() == key:
            for last in range(first, len(lines)):
                found = "".join(lines[first : last + 1])
                with contextlib.suppress(tomllib.TOMLDecodeError):
                    tomllib.loads(found)
                    return found
    return None
