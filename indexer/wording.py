"""Words for people: text made safe for a terminal, a log and a page, and how counts and durations read."""

import re
import unicodedata

# How it is known that files are of the same sound, by ``how`` in indexer.library.duplicates.
HOW_SAME = {
    "same audio": "the same audio, byte for byte",
    "aligned": "other encodings, confirmed by their fingerprints",
    "embedding and length": "by embedding and length only",
}


def count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def duration(seconds: float) -> str:
    """1:02:03, 2:03 or 0:03."""
    total = round(seconds)
    hours, minutes, rest = total // 3600, total // 60 % 60, total % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def escaped(text: str) -> str:
    """Everything that is not printable as its escape; a surrogate that stands for a bad byte as that byte."""
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def printable(path: bytes) -> str:
    """A path for people."""
    return escaped(path.decode("utf-8", "surrogateescape"))


def artist_and_title(artist: str | None, title: str | None) -> str:
    """Both on one line; empty when neither is known."""
    return escaped(" - ".join(filter(None, (artist, title))))


def key(text: str) -> str:
    """The form in which texts are compared: no case, punctuation or spaces; '&', '+' and a single n become 'and'."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.split(r"[\W_]+", re.sub(r"[&+]", " and ", folded))
    return "".join("and" if word == "n" else word for word in words) or folded.strip()
