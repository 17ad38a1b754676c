"""Makes dataclasses of the plain values that cross a process border or a network, and checks each of them.

A value may have been changed on its way or come from a hostile machine: whatever does not fit the annotations of the
dataclass, is not finite or is absurdly long raises ValueError.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

MOST_CHARS, MOST_ITEMS, LARGEST = 300, 10_000, 2.0**53
_T = TypeVar("_T")


def from_plain(kind: type[_T], value: object) -> _T:
    """The dataclass ``kind`` from a mapping of its fields; those with a default may be missing.

    Fields may be int, float, bool, str, tuples, other dataclasses and unions with None. Raises ValueError.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{kind.__name__} is no record")  # noqa: TRY004 - one error for all that does not fit
    hints = _hints(typing.cast(Any, kind))
    if not value.keys() <= hints.keys():
        raise ValueError(f"{kind.__name__} has other parts")
    try:
        return kind(**{name: _fitting(hints[name], part, name) for name, part in value.items()})
    except TypeError as error:
        raise ValueError(f"{kind.__name__} lacks a part") from error


@functools.lru_cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _fitting(hint: Any, value: object, name: str) -> Any:
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if value is None and type(None) in options:
        return None
    kind = next(option for option in options if option is not type(None))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return from_plain(kind, value)
    if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)) and len(value) <= MOST_ITEMS:
        items = typing.get_args(kind)
        if items[1:] == (...,):
            items = items[:1] * len(value)
        if len(items) == len(value):
            return tuple(_fitting(item, part, name) for item, part in zip(items, value, strict=True))
    elif kind is bool and isinstance(value, bool):
        return value
    elif kind is str and isinstance(value, str):
        if len(value) <= MOST_CHARS:
            return value
    elif (kind is float and type(value) in (int, float)) or (kind is int and type(value) is int):
        number = typing.cast("int | float", value)
        if math.isfinite(number) and abs(number) < LARGEST:
            return kind(number)
    raise ValueError(f"{name} is not as it should be")
