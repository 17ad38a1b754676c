"""Columns of the library as arrays: texts as codes of their names, and what a label set has of each row.

indexer.library.browse reads them and finds tracks by them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

NONE = -1  # the code of what is not known


@dataclass
class Texts:
    """A column of texts: for each row the place of its text in ``names``, or NONE."""

    names: list[str]
    codes: np.ndarray  # (rows,) int32

    def among(self, names: Sequence[str]) -> np.ndarray:
        """(rows,) bool: whose text is one of these."""
        return np.isin(self.codes, [code for code, name in enumerate(self.names) if name in names])

    def counts(self, rows: np.ndarray) -> dict[str, int]:
        """By text: how many of these rows have it, where any does."""
        found = np.bincount(self.codes[rows & (self.codes != NONE)], minlength=len(self.names))
        return {self.names[n]: int(found[n]) for n in np.flatnonzero(found)}

    def ranks(self) -> np.ndarray:
        """(rows,) float: the place of each text in alphabetical order; NaN where there is none."""
        order = sorted(range(len(self.names)), key=lambda code: in_order(self.names[code]))
        rank = np.full(len(order) + 1, np.nan)  # the last one is that of NONE
        rank[order] = np.arange(len(order))
        ranks: np.ndarray = rank[self.codes]
        return ranks


def in_order(text: str) -> str:
    """What texts are sorted by: 8A comes before 10A."""
    return re.sub(r"\d+", lambda number: number[0].zfill(8), text.casefold())


class Coding:
    """Turns texts, a page of rows at a time, into a column."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._parts = [np.empty(0, np.int32)]

    def add(self, values: Iterable[str | None]) -> None:
        places = self._places
        codes = [NONE if value is None else places.setdefault(value, len(places)) for value in values]
        self._parts.append(np.array(codes, np.int32))

    def column(self) -> Texts:
        return Texts([*self._places], np.concatenate(self._parts))


@dataclass
class Labels:
    """What is known of each row in one set of labels, the genre or another: its label and, without one, a guess."""

    label: Texts
    guess: Texts

    def undecided(self) -> np.ndarray:
        """(rows,) bool: nobody gave it a label, and the head is not sure of its guess."""
        rows: np.ndarray = (self.label.codes == NONE) & (self.guess.codes != NONE)
        return rows

    def among(self, labels: Sequence[str], *, or_undecided: bool) -> np.ndarray:
        """(rows,) bool: whose label is one of these; ``or_undecided``: or who has none, only a guess."""
        rows = self.label.among(labels)
        return rows | self.undecided() if or_undecided else rows

    def ranks(self) -> np.ndarray:
        """(rows,) float: the place of each label in alphabetical order; what is only guessed comes behind."""
        ranks = self.label.ranks()
        return np.where(np.isnan(ranks), self.guess.ranks() + len(self.label.names), ranks)
