"""Which tracks mix well with one, and why: the same or a neighbouring key, and a tempo within 6 %."""

from dataclasses import dataclass

from indexer.analysis.camelot import Key, mixing_relation

MOST_TEMPO_CHANGE = 0.06  # what a DJ's pitch fader does without the sound suffering
_EQUAL_TEMPO = 0.0005
_ALIKE = ((0.75, "very much alike"), (0.5, "alike"), (0.25, "a little alike"))  # from which centred cosine on


@dataclass(frozen=True, slots=True)
class Mixable:
    """What is known of a track that a mix needs; ``*_is_tag``: by the file's tags."""

    tempo_bpm: float | None
    tempo_is_tag: bool
    key: Key | None
    key_is_tag: bool
    measured: bool  # whether the recording's sound was measured: what is still missing was not to be found in it

    def missing(self) -> list[str]:
        """A sentence for each thing that is not known, with what to do."""
        absent = [
            ("tempo", "no steady beat was found in the sound", self.tempo_bpm is None),
            ("key", "no tonality was found in the sound", self.key is None),
        ]
        return [
            f"no {name}: {reason if self.measured else 'not measured yet, the next `indexer scan` does it'}, and the"
            " tags name none"
            for name, reason, is_absent in absent
            if is_absent
        ]


def sound_reason(similarity: float) -> str:
    """How alike two tracks sound, from the centred cosine of their embeddings."""
    words = next((words for least, words in _ALIKE if similarity >= least), "not much alike")
    return f"{words} ({similarity:.2f})"


def key_reason(of: Key, to: Key) -> str | None:
    """How the key ``to`` goes with ``of``; None where they do not mix."""
    relation = mixing_relation(of, to)
    if relation is None or of == to:
        return relation and f"{relation} ({of.camelot})"
    return f"{relation} ({of.camelot} to {to.camelot})"


def tempo_reason(of_bpm: float, to_bpm: float) -> str | None:
    """How the tempo ``to_bpm`` goes with ``of_bpm``; None where it is not within 6 % of it, its half or its double."""
    for factor, words in ((1.0, ""), (2.0, "half the tempo"), (0.5, "twice the tempo")):
        change = round(factor * to_bpm / of_bpm - 1, 9)
        if abs(change) > MOST_TEMPO_CHANGE:
            continue
        if abs(change) < _EQUAL_TEMPO:
            return f"{words or 'same tempo'} ({_bpm(of_bpm) if factor == 1 else _from_to(of_bpm, to_bpm)})"
        by = f"{100 * abs(change):.1f} % {'faster' if change > 0 else 'slower'}"
        return f"{words + ', ' if words else ''}{by} ({_from_to(of_bpm, to_bpm)})"
    return None


def reasons(of: Mixable, to: Mixable, similarity: float) -> dict[str, str] | None:
    """Why a track mixes well with ``of``, by what it concerns: ``sound``, ``key``, ``tempo``; None where it does not.

    What is not known of ``of`` is not compared; a track of which that is not known does not mix.
    """
    found = {"sound": sound_reason(similarity)}
    if of.key is not None:
        key = key_reason(of.key, to.key) if to.key is not None else None
        if key is None:
            return None
        found["key"] = key + (", by its tags" if to.key_is_tag else "")
    if of.tempo_bpm is not None:
        tempo = tempo_reason(of.tempo_bpm, to.tempo_bpm) if to.tempo_bpm is not None else None
        if tempo is None:
            return None
        found["tempo"] = tempo + (", by its tags" if to.tempo_is_tag else "")
    return found


def _bpm(bpm: float) -> str:
    return f"{bpm:.1f}".removesuffix(".0") + " BPM"


def _from_to(of_bpm: float, to_bpm: float) -> str:
    return f"{_bpm(of_bpm).removesuffix(' BPM')} to {_bpm(to_bpm)}"
