"""Makes dataclasses of the plain values that cross a process border or a network, and checks each of them.

A value may have been changed on its way or come from a hostile machine: whatever does not fit the annotations of the
dataclass, is not finite or is absurdly long raises ValueError.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

MOST_CHARS, MOST_ITEMS, LARGEST = 300, 10_000, 2.0**53
_T = TypeVar("_T")
_Fit = Callable[[Any], Any]  # a value as its annotation wants it; raises _UnfitError


class _UnfitError(Exception):
    """A value does not fit its annotation."""


def to_plain(value: Any) -> dict[str, Any]:
    """A dataclass as the mapping of its fields, and so those that are dataclasses; the rest must be plain already.

    Unlike ``dataclasses.asdict`` it copies no tuple.
    """
    parts = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    return {name: to_plain(part) if dataclasses.is_dataclass(part) else part for name, part in parts}


def from_plain(kind: type[_T], value: object) -> _T:
    """The dataclass ``kind`` from a mapping of its fields; those with a default may be missing.

    Fields may be int, float, bool, str, tuples, other dataclasses and unions with None. Raises ValueError.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{kind.__name__} is no record")  # noqa: TRY004 - one error for all that does not fit
    fits = _fits(typing.cast(Any, kind))
    if not value.keys() <= fits.keys():
        raise ValueError(f"{kind.__name__} has other parts")
    found = {}
    for name, part in value.items():
        try:
            found[name] = fits[name](part)
        except _UnfitError as error:
            raise ValueError(f"{name} is not as it should be") from error
    try:
        return kind(**found)
    except TypeError as error:
        raise ValueError(f"{kind.__name__} lacks a part") from error


@functools.cache
def _fits(kind: Any) -> dict[str, _Fit]:
    return {name: _fit(hint) for name, hint in typing.get_type_hints(kind).items()}


def _fit(hint: Any) -> _Fit:
    """What makes of a value what the annotation says."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        inner = _fit(next(option for option in typing.get_args(hint) if option is not type(None)))
        return lambda value: None if value is None else inner(value)
    if typing.get_origin(hint) is tuple:
        return _fit_tuple(typing.get_args(hint))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return functools.partial(from_plain, hint)
    if hint in (int, float):
        return functools.partial(_number, hint)
    plain: dict[Any, _Fit] = {bool: _truth, str: _text}
    return plain[hint]


def _fit_tuple(items: Sequence[Any]) -> _Fit:
    if items[1:] != (...,):
        return functools.partial(_each, tuple(map(_fit, items)))
    if items[0] in (int, float):
        return functools.partial(_numbers, items[0])
    return functools.partial(_all, _fit(items[0]))


def _each(fits: Sequence[_Fit], values: object) -> tuple[Any, ...]:
    found = _list(values)
    if len(found) != len(fits):
        raise _UnfitError
    return tuple(fit(value) for fit, value in zip(fits, found, strict=True))


def _all(fit: _Fit, values: object) -> tuple[Any, ...]:
    return tuple(map(fit, _list(values)))


def _numbers(kind: type[int | float], values: object) -> tuple[int | float, ...]:
    """As ``_number`` for each, in a few passes: a recording has more than a thousand."""
    found = _list(values)
    if not set(map(type, found)) <= {int, kind} or not all(map(LARGEST.__gt__, map(abs, found))):
        raise _UnfitError
    return tuple(map(kind, found))


def _list(values: object) -> Sequence[Any]:
    if not isinstance(values, (list, tuple)) or len(values) > MOST_ITEMS:
        raise _UnfitError
    return values


def _number(kind: type[int | float], value: Any) -> int | float:
    if type(value) not in (int, kind) or not abs(value) < LARGEST:  # NaN is not below it
        raise _UnfitError
    return kind(value)


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise _UnfitError
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MOST_CHARS:
        raise _UnfitError
    return value
