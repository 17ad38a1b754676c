"""Folk tunes with the key their editors wrote down, played as electronic music: for bench_key.

Reads ABC notation: melody, and chord symbols where a tune has them. Such files come with music21's corpus
(`ryansMammoth`, `nottingham-dataset`, `oneills1850`). Only what a key needs is read; repeats and ornaments are not.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexer.analysis.camelot import Key
from indexer.encoders import synthesis

MIN_NOTES = 40
_SHARPS = "FCGDAEB"
_PITCH_CLASS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_SIGNATURE = {"C": 0, "G": 1, "D": 2, "A": 3, "E": 4, "B": 5, "F#": 6, "F": -1, "Bb": -2, "Eb": -3, "Ab": -4, "Db": -5}
_TOKEN = re.compile(r"\"([^\"]*)\"|(\||:\|)|([\^_=]*)([A-Ga-gzx])([,']*)(\d*)(/*)(\d*)\s*([<>]?)")


@dataclass(frozen=True)
class Tune:
    """Notes as (beginning, length, pitch), chords as (beginning, root, is minor); in whole notes and semitones."""

    key: Key
    notes: list[tuple[float, float, int]]
    chords: list[tuple[float, int, bool]]
    length: float


def tunes_in(folder: Path) -> Iterator[Tune]:
    """The tunes of all ABC files below a folder that are in major or minor and long enough."""
    for path in sorted(folder.rglob("*.abc")):
        for text in re.split(r"(?m)^(?=X:)", path.read_text(errors="replace")):
            tune = _parse(text)
            if tune is not None:
                yield tune


def _parse(text: str) -> Tune | None:
    head = dict(reversed(re.findall(r"(?m)^([A-Z]):\s*(.*?)\s*$", text)))
    key = re.fullmatch(r"([A-G][#b]?)\s*(|maj|major|m|min|minor)", head.get("K", ""))
    unit = re.fullmatch(r"(\d+)/(\d+)", head.get("L", "1/8"))
    if key is None or unit is None or key[1] not in _SIGNATURE:
        return None
    is_minor = key[2] in ("m", "min", "minor")
    signature = _SIGNATURE[key[1]] - 3 * is_minor
    sharp = dict.fromkeys(_SHARPS[: max(signature, 0)], 1) | dict.fromkeys(_SHARPS[::-1][: max(-signature, 0)], -1)
    body = "\n".join(line for line in text.split("\n") if not re.match(r"[A-Za-z]:|%", line))
    body = re.sub(r"![^!]*!|\{[^}]*\}|%.*", "", body)
    at, swing, in_bar = 0.0, 1.0, dict[str, int]()
    notes, chords = [], []
    for token in _TOKEN.finditer(body):
        chord, bar, accidental, letter, octave, times, slashes, over, dotted = token.groups()
        if bar:
            in_bar = {}
        elif chord is not None:
            symbol = re.match(r"([A-G])([#b]?)(m(?!aj))?", chord)
            if symbol:
                chords.append((at, (_PITCH_CLASS[symbol[1]] + _alter(symbol[2])) % 12, bool(symbol[3])))
        else:
            length = swing * int(unit[1]) / int(unit[2]) * int(times or 1) / (int(over or 2 ** len(slashes)) or 1)
            length *= {"": 1.0, ">": 1.5, "<": 0.5}[dotted]
            swing = {"": 1.0, ">": 0.5, "<": 1.5}[dotted]
            if letter not in "zx":
                if accidental:
                    in_bar[letter] = accidental.count("^") - accidental.count("_")
                pitch = _PITCH_CLASS[letter.upper()] + in_bar.get(letter, sharp.get(letter.upper(), 0))
                pitch += 12 * (letter.islower() + octave.count("'") - octave.count(","))
                notes.append((at, length, pitch))
            at += length
    tonic = (_PITCH_CLASS[key[1][0]] + _alter(key[1][1:])) % 12
    return Tune(Key(tonic, is_minor), notes, chords, at) if len(notes) >= MIN_NOTES else None


def _alter(sign: str) -> int:
    return {"": 0, "#": 1, "b": -1}[sign]


def play(tune: Tune, seed: int, duration_s: float) -> tuple[np.ndarray, Key]:
    """The tune, transposed, detuned by up to 40 cents, with chords, bass and drums of random levels and timbres.

    Returns (n,) float32 at synthesis.SAMPLE_RATE_HZ and the key it is played in.
    """
    rng = np.random.default_rng(seed)
    whole_s, shift, cents = 240 / rng.uniform(90, 175), int(rng.integers(-6, 6)), rng.uniform(-40, 40)
    sound = np.zeros(round(duration_s * synthesis.SAMPLE_RATE_HZ))

    def add(at_s: float, part: np.ndarray, level: float) -> None:
        place = round(at_s * synthesis.SAMPLE_RATE_HZ)
        part = part[: max(0, len(sound) - place)]
        sound[place : place + len(part)] += level * part

    def pluck(at_s: float, pitch: int, length_s: float, cutoff_hz: float, level: float) -> None:
        if at_s < duration_s:
            hz = 440 * 2 ** ((pitch + shift - 9) / 12 + cents / 1200)
            add(at_s, synthesis._pluck(hz, max(0.1, length_s), cutoff_hz, detune, rng), level)

    melody, bass, pad = rng.uniform(0.15, 0.6), rng.uniform(0.3, 0.9), rng.uniform(0.1, 0.4)
    cutoffs_hz, detune = rng.uniform([1000, 250, 800], [6000, 900, 4000]), rng.uniform(0, 0.008)
    for repeat in range(int(duration_s / (tune.length * whole_s)) + 1):
        begin_s = repeat * tune.length * whole_s
        for at, length, pitch in tune.notes:
            pluck(begin_s + at * whole_s, pitch, 1.2 * length * whole_s, cutoffs_hz[0], melody)
        ends = [at for at, _, _ in tune.chords[1:]] + [tune.length]
        for (at, root, is_minor), end in zip(tune.chords, ends, strict=False):
            at_s, length_s = begin_s + at * whole_s, (end - at) * whole_s
            for step in (0, 3 if is_minor else 4, 7):
                pluck(at_s, (root + step) % 12, 1.3 * min(2.0, length_s), cutoffs_hz[2], pad)
            for beat in range(max(1, int(length_s / whole_s * 4))):
                pluck(at_s + beat * whole_s / 4, root - 24, whole_s / 7, cutoffs_hz[1], bass)
    drums = rng.choice([0, 1, 1]) * rng.uniform(0.4, 1.2)
    kick, snare, hat = synthesis._kick(rng), synthesis._snare(rng), synthesis._hat(rng, 0.06)
    for beat in range(int(duration_s / whole_s * 4)):
        add(beat * whole_s / 4, kick, drums)
        add((beat + 0.5) * whole_s / 4, hat, 0.2 * drums)
        add(beat * whole_s / 4, snare, 0.5 * drums * (beat % 2))
    sound += rng.standard_normal(len(sound)) * 10 ** rng.uniform(-4.5, -2.5)
    sound = np.tanh(rng.uniform(0.5, 1.8) * sound / np.abs(sound).max())
    return sound.astype(np.float32), Key((tune.key.tonic + shift) % 12, tune.key.minor)
