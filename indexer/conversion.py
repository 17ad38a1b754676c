"""What a person gave (TOML, the text of a variable, JSON) as the type that a setting has, by its type hint.

Knows the hints that settings use: int, float, bool, str, Path, Literal, tuple[X, ...], Mapping[str, X], dataclasses as
tables, and X | None. Whatever cannot be taken for one raises ConfigError with where it stands.
"""

import dataclasses
import difflib
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from indexer.errors import ConfigError


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with a leading ``~`` or ``~user`` resolved. Raises ConfigError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{os.fspath(path)}: there is no such user, or none with a home folder") from error


def nearest(key: str, valid: Mapping[str, Any]) -> str:
    """The end of a message about a key that there is not: the valid one that it was meant for, or all."""
    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.4)
    return f"; did you mean '{close[0]}'?" if close else f"; valid are {', '.join(sorted(valid))}"


def parse_text(text: str, hint: Any, key: str) -> Any:
    """An environment variable's text as the TOML value it stands for. Raises ConfigError."""
    kind = _base(hint)
    if any(text in typing.get_args(option) for option in _options(hint)[1:]):
        return text
    if kind is tuple:
        return [p for p in text.split(os.pathsep) if p]
    if kind in (int, float, bool, Mapping):
        try:
            return tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            raise ConfigError(f"INDEXER_{key.upper()}: '{text}' is not a {_name(hint)}") from None
    return text


def _options(hint: Any) -> list[Any]:
    """What a hint allows beside None."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return [a for a in typing.get_args(hint) if a is not type(None)] if union else [hint]


def _base(hint: Any) -> Any:
    """The plain type behind ``X | None``, ``tuple[X, ...]`` and ``Mapping[K, V]``."""
    hint = _options(hint)[0]
    origin = typing.get_origin(hint)
    return Mapping if origin is not None and origin not in (tuple, Literal) else origin or hint


def _name(hint: Any) -> str:
    kind = _base(hint)
    words = [f'"{word}"' for option in _options(hint)[1:] for word in typing.get_args(option)]
    return " or ".join(
        [
            {
                int: "whole number",
                float: "number",
                bool: "true or false",
                str: "text",
                Path: "path",
                tuple: "list",
                Mapping: "table",
            }.get(kind, str(kind)),
            *words,
        ]
    )


def converted(value: Any, hint: Any, where: str) -> Any:
    """A value as its hint's type; ``where`` names it for a person. Raises ConfigError."""
    kind = _base(hint)
    wrong = ConfigError(f"{where}: {value!r} is not a {_name(hint)}")
    if kind is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ConfigError(f"{where}: {value!r} is not one of {', '.join(choices)}{_close_choice(value, choices)}")
        return value
    if kind is Path:
        if not isinstance(value, (str, os.PathLike)) or "\0" in os.fspath(value):
            raise wrong
        return expanded(value)
    if kind is tuple:
        return _convert_list(value, typing.get_args(_options(hint)[0])[0], wrong)
    if kind is Mapping:
        return _convert_mapping(value, typing.get_args(hint)[1], where, wrong)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    is_word = any(value in typing.get_args(option) for option in _options(hint)[1:])
    if not is_word and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise wrong
    return value


def _convert_list(value: Any, kind: Any, wrong: ConfigError) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise wrong
    kinds = (int, float) if kind is float else (str, os.PathLike)
    if not all(isinstance(v, kinds) and not isinstance(v, bool) for v in value):
        raise wrong
    return tuple(expanded(v) if kind is Path else kind(v) for v in value)


def _convert_mapping(value: Any, kind: Any, where: str, wrong: ConfigError) -> dict[str, Any]:
    """A table with any keys; a text may stand for a list of one."""
    if not isinstance(value, Mapping):
        raise wrong
    if dataclasses.is_dataclass(kind):
        return {name: _convert_table(told, kind, f"{where}.{name}") for name, told in value.items()}
    if kind is not str:
        lists = {name: [v] if _base(kind) is tuple and isinstance(v, str) else v for name, v in value.items()}
        return {name: converted(v, kind, f"{where}.{name}") for name, v in lists.items()}
    if not all(isinstance(v, str) for v in value.values()):
        raise wrong
    return dict(value)


def _convert_table(told: Any, kind: Any, where: str) -> Any:
    """A table with fixed keys as its dataclass; one value may stand for a list of one."""
    if not isinstance(told, Mapping):
        raise ConfigError(f"{where}: {told!r} is not a table")
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in told.items():
        if key not in hints:
            raise ConfigError(f"{where}: unknown setting '{key}'{nearest(key, hints)}")
        if value is not None:  # from JSON
            is_one = _base(hints[key]) is tuple and isinstance(value, str | int | float)
            values[key] = converted([value] if is_one else value, hints[key], f"{where}.{key}")
    missing = [field.name for field in dataclasses.fields(kind) if _is_needed(field) and field.name not in values]
    if missing:
        raise ConfigError(f"{where}: needs '{missing[0]}'")
    try:
        return kind(**values)
    except ConfigError as e:
        raise ConfigError(f"{where}: {e}") from e


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _close_choice(value: Any, choices: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.4)
    return f"; did you mean '{close[0]}'?" if close else ""
