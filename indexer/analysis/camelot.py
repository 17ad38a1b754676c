"""Musical keys: their two notations (`8A`, `Am`), how others spell them, and which keys mix with which.

The Camelot wheel numbers the circle of fifths from 1 to 12, A for minor and B for major; a key's neighbours on it share
all of its notes, or all but one.
"""

import re
from dataclasses import dataclass

_MAJOR = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
_MINOR = ("Cm", "C#m", "Dm", "Ebm", "Em", "Fm", "F#m", "Gm", "G#m", "Am", "Bbm", "Bm")
_PITCH_CLASS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_ACCIDENTAL = {"": 0, "#": 1, "sharp": 1, "b": -1, "flat": -1}
_GERMAN = {"h": 11, "b": 10, "ais": 10, "his": 0, "cis": 1, "dis": 3, "eis": 5, "fis": 6, "gis": 8} | {
    "as": 8, "ces": 11, "des": 1, "es": 3, "fes": 4, "ges": 6,
}  # fmt: skip
_WHEEL = re.compile(r"0?([1-9]|1[0-2])\s*([abdm])")
_NOTE = re.compile(r"([a-g])\s*(#|sharp|b|flat)?\s*-?\s*(m|min|minor|maj|major)?\.?")
_DUR_MOLL = re.compile(r"([a-h]|[a-g]is|[cdefg]es|as|es)\s*-?\s*(dur|moll)")
_LONGEST_TEXT = 100  # characters of a tag that are looked at


@dataclass(frozen=True)
class Key:
    """A major or minor key: the tonic's pitch class (0 is C, 11 is B) and the mode."""

    tonic: int
    minor: bool

    @property
    def camelot(self) -> str:
        """Its place on the Camelot wheel: `8A` for A minor, `8B` for C major."""
        return f"{self.number}{'A' if self.minor else 'B'}"

    @property
    def number(self) -> int:
        """Its number on the wheel, 1 to 12; a fifth up is one more."""
        major = self.tonic + 3 if self.minor else self.tonic  # the major key with the same notes
        return (7 * major + 7) % 12 + 1

    @property
    def name(self) -> str:
        """Its usual short name: `Am`, `F#m`, `Eb`."""
        return (_MINOR if self.minor else _MAJOR)[self.tonic]


def parse_key(text: str | None) -> Key | None:
    """The key that a text names, None where it names none.

    Knows `Am`, `A minor`, `a-moll`, `G#m`, `A♭ maj`, `F sharp minor`; the Camelot wheel's `8A` and `08a`; Open Key's
    `1m` and `1d`. Of several (`8A / Am`, `Am - 128`) the first that is a key counts. Upper or lower case is the same
    but for two: `AM` is major, and a lower-case letter alone (`a`) is no key, because some mean minor with it.
    """
    if not text:
        return None
    for part in re.split(r"[/|,;()\[\]]|\s-\s", text[:_LONGEST_TEXT].replace("♯", "#").replace("♭", "b")):
        key = _parse(part.strip())
        if key is not None:
            return key
    return None


def _parse(text: str) -> Key | None:
    lower = " ".join(text.lower().replace("_", " ").split())
    if wheel := _WHEEL.fullmatch(lower):
        number, letter = int(wheel[1]), wheel[2]
        if letter in "dm":  # Open Key: C major is 1d, which is 8B
            number += 7
        minor = letter in "am"
        return Key((7 * (number - 8) + (9 if minor else 0)) % 12, minor)
    if german := _DUR_MOLL.fullmatch(lower):
        note = german[1]
        return Key(_GERMAN[note] if note in _GERMAN else _PITCH_CLASS[note], german[2] == "moll")
    if (spelled := _NOTE.fullmatch(lower)) and not (len(text) == 1 and text.islower()):
        minor = spelled[3] in ("min", "minor") or (spelled[3] == "m" and not text.endswith("M"))
        return Key((_PITCH_CLASS[spelled[1]] + _ACCIDENTAL[spelled[2] or ""]) % 12, minor)
    return None


def mixing_relation(of: Key, to: Key) -> str | None:
    """How ``to`` lies to ``of``, in words, where the two mix well; None where they do not.

    Well mix the same key, the relative one (same number, other letter) and those a fifth away (next number, same
    letter).
    """
    if of == to:
        return "same key"
    if of.number == to.number:
        return f"relative {'minor' if to.minor else 'major'}"
    if of.minor == to.minor:
        step = (to.number - of.number) % 12
        return {1: "a fifth up", 11: "a fifth down"}.get(step)
    return None
