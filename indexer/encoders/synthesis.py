"""Synthesises electronic music: five genres with their tempi, drum patterns, basses, pads and arrangement.

For `indexer demo`, calibration, tests and benchmarks. Numpy only; the same seed gives the same samples. A head trained
on it shows that the program works, and nothing about real music. Tempi overlap, every layer may be missing, and
timbres, keys, swing, levels and arrangement are drawn at random for each track, so that no single property identifies a
genre.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SAMPLE_RATE_HZ = 44_100
GENRES = ("ambient", "drum and bass", "house", "techno", "trance")
LOOP_BARS = 4
FAST_FRAMES = 3840

# Usual tempo ranges in beats a minute; neighbours overlap on purpose.
TEMPO_BPM = {
    "ambient": (60, 130),
    "drum and bass": (164, 180),
    "house": (116, 129),
    "techno": (124, 142),
    "trance": (128, 144),
}
MINOR_SCALE = (0, 2, 3, 5, 7, 8, 10)  # semitones of the natural minor


@dataclass(frozen=True)
class Loop:
    """The grid of one track: a loop of LOOP_BARS bars of 16 steps."""

    bpm: float
    swing: float  # delay of every second step, as a share of a step
    root_hz: float  # tonic, in the octave of the bass
    rng: np.random.Generator

    @property
    def frames(self) -> int:
        """Length of the loop in samples, rounded to a fast FFT length (changes the tempo by under 1 %)."""
        return round(LOOP_BARS * 4 * 60 / self.bpm * SAMPLE_RATE_HZ / FAST_FRAMES) * FAST_FRAMES

    def at(self, step: float) -> int:
        """The sample at which a step (16 a bar) begins."""
        late = self.swing if int(step) % 2 else 0.0
        return int((step + late) * self.frames / (LOOP_BARS * 16)) % self.frames

    def seconds(self, steps: float) -> float:
        """Duration of ``steps`` steps in seconds."""
        return steps * self.frames / (LOOP_BARS * 16) / SAMPLE_RATE_HZ

    def hz(self, degree: int, octave: int = 0) -> float:
        """Frequency of a degree of the scale above the tonic."""
        octaves, index = divmod(degree, len(MINOR_SCALE))
        return float(self.root_hz * 2 ** (octave + octaves + MINOR_SCALE[index] / 12))


def _time(seconds: float) -> np.ndarray:
    return np.arange(max(1, round(seconds * SAMPLE_RATE_HZ))) / SAMPLE_RATE_HZ


def _saw(hz: float, t: np.ndarray, phase: float = 0.0) -> np.ndarray:
    return 2 * ((hz * t + phase) % 1) - 1


def _band(signal: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Band-pass with slopes of 12 dB an octave, by multiplying the spectrum; circular, like the loops."""
    hz = np.maximum(np.fft.rfftfreq(len(signal), 1 / SAMPLE_RATE_HZ), 1e-3)
    gain = 1 / (1 + (low_hz / hz) ** 2) / (1 + (hz / high_hz) ** 2)
    return np.fft.irfft(np.fft.rfft(signal) * gain, len(signal))


def _reverb(signal: np.ndarray, seconds: float, wet: float, rng: np.random.Generator) -> np.ndarray:
    """Add the tail of a room: convolution with decaying noise, wrapping round the loop."""
    t = np.arange(len(signal)) / SAMPLE_RATE_HZ
    room = rng.standard_normal(len(signal)) * np.exp(-6.9 * t / seconds)  # -60 dB after ``seconds``
    tail = np.fft.irfft(np.fft.rfft(signal) * np.fft.rfft(room / np.sqrt(np.sum(room**2))), len(signal))
    return (1 - wet) * signal + wet * tail


def _play(
    loop: Loop, hit: Callable[[int], np.ndarray], steps: list[float], accents: np.ndarray | None = None
) -> np.ndarray:
    """A loop with the sound ``hit(n)`` at the n-th of ``steps``; tails wrap round to its beginning.

    accents: 16 levels, one for each step of the bar.
    """
    out = np.zeros(loop.frames)
    for n, step in enumerate(steps):
        sound = hit(n)[: loop.frames] * (1.0 if accents is None else accents[int(step) % 16])
        start = loop.at(step)
        head = min(len(sound), loop.frames - start)
        out[start : start + head] += sound[:head]
        out[: len(sound) - head] += sound[head:]
    return out


def _bars(pattern: list[float]) -> list[float]:
    """Repeat the pattern of one bar in every bar of the loop."""
    return [16 * bar + step for bar in range(LOOP_BARS) for step in pattern]


# ---- sounds, each with a random timbre


def _kick(rng: np.random.Generator) -> np.ndarray:
    t = _time(rng.uniform(0.18, 0.4))
    low, high, drop, decay = rng.uniform(42, 58), rng.uniform(120, 320), rng.uniform(20, 60), rng.uniform(7, 16)
    phase = 2 * np.pi * (low * t + (high - low) / drop * (1 - np.exp(-drop * t)))
    return np.asarray(np.tanh(rng.uniform(1, 3) * np.sin(phase) * np.exp(-decay * t)))


def _snare(rng: np.random.Generator) -> np.ndarray:
    t = _time(0.25)
    noise = _band(rng.standard_normal(len(t)), rng.uniform(600, 1800), rng.uniform(5000, 11_000))
    return np.asarray(
        0.6 * noise * np.exp(-rng.uniform(12, 30) * t)
        + 0.5 * np.sin(2 * np.pi * rng.uniform(160, 230) * t) * np.exp(-30 * t)
    )


def _hat(rng: np.random.Generator, seconds: float) -> np.ndarray:
    t = _time(seconds)
    return _band(rng.standard_normal(len(t)), rng.uniform(5000, 8000), 16_000) * np.exp(-4 / seconds * t)


def _pluck(hz: float, seconds: float, cutoff_hz: float, detune: float, rng: np.random.Generator) -> np.ndarray:
    t = _time(seconds)
    tone = sum(_saw(hz * (1 + d * detune), t, rng.random()) for d in (-1, 0, 1))
    return np.asarray(_band(np.asarray(tone), 20, cutoff_hz) * np.exp(-3 / seconds * t) * np.minimum(1, t * 400))


def _pad(loop: Loop, degrees: list[list[int]], octave: int, cutoff_hz: float, detune: float) -> np.ndarray:
    """Held chords of equal length, with soft transitions."""
    rng = loop.rng
    out = np.zeros(loop.frames)
    length = loop.frames // len(degrees)
    t = np.arange(length) / SAMPLE_RATE_HZ
    fade = np.minimum(1, np.minimum(t, t[::-1]) / 0.08)
    for n, chord in enumerate(degrees):
        tone = sum(
            _saw(loop.hz(degree, octave) * (1 + d * detune), t, rng.random()) for degree in chord for d in (-1, 0.3, 1)
        )
        out[n * length : (n + 1) * length] = tone * fade
    wobble = 0.8 + 0.2 * np.sin(2 * np.pi * np.arange(loop.frames) / loop.frames * rng.integers(1, 5))
    return np.asarray(_band(out, 120, cutoff_hz) * wobble)


def _chords(rng: np.random.Generator) -> list[list[int]]:
    """Two to four chords of a minor key."""
    roots = rng.choice([0, 3, 4, 5, 6, 2], size=rng.choice([2, 4]), replace=False)
    roots[0] = 0
    size = int(rng.integers(3, 5))
    return [[int(r) + 2 * k for k in range(size)] for r in roots]


# ---- genres: each returns its layers as (level, loop of samples)

Layers = list[tuple[float, np.ndarray]]


def _drums(loop: Loop, kick: list[float], snare: list[float], hats: list[float], open_hats: list[float]) -> Layers:
    rng = loop.rng
    k, s, h, o = _kick(rng), _snare(rng), _hat(rng, rng.uniform(0.03, 0.08)), _hat(rng, rng.uniform(0.12, 0.3))
    accents = rng.uniform(0.5, 1, 16)
    return [
        (1.0, _play(loop, lambda _: k, kick)),
        (rng.uniform(0.4, 0.8), _play(loop, lambda _: s, snare)),
        (rng.uniform(0.1, 0.3), _play(loop, lambda _: h, hats, accents)),
        (rng.uniform(0.1, 0.3), _play(loop, lambda _: o, open_hats)),
    ]


def _bass(
    loop: Loop, steps: list[float], degrees: list[int], length_steps: float, cutoff_hz: float, detune: float
) -> np.ndarray:
    return _play(
        loop,
        lambda n: _pluck(loop.hz(degrees[n % len(degrees)]), loop.seconds(length_steps), cutoff_hz, detune, loop.rng),
        steps,
    )


def _four_on_the_floor(rng: np.random.Generator) -> list[float]:
    steps = _bars([0, 4, 8, 12])
    return steps[:-1] if rng.random() < 0.2 else steps


def _ambient(loop: Loop) -> Layers:
    rng = loop.rng
    layers = [
        (
            0.8,
            _reverb(
                _pad(loop, _chords(rng), 2, rng.uniform(500, 2500), rng.uniform(0.001, 0.006)),
                rng.uniform(3, 8),
                0.6,
                rng,
            ),
        ),
        (
            rng.uniform(0.02, 0.15),
            _band(rng.standard_normal(loop.frames), rng.uniform(100, 800), rng.uniform(1500, 6000)),
        ),
    ]
    notes = sorted(rng.choice(64, size=int(rng.integers(3, 12)), replace=False).tolist())
    bells = _play(
        loop, lambda _: _pluck(loop.hz(int(rng.integers(0, 10)), 3), 1.5, rng.uniform(1500, 6000), 0.001, rng), notes
    )
    layers.append((0.4, _reverb(bells, 5, 0.7, rng)))
    if rng.random() < 0.5:  # a soft pulse, so that ambient does not always lack a beat
        kick = _kick(rng)
        layers.append(
            (
                rng.uniform(0.2, 0.5),
                _band(_play(loop, lambda _: kick, _bars([0, 8] if rng.random() < 0.5 else [0])), 20, 400),
            )
        )
    return layers


def _drum_and_bass(loop: Loop) -> Layers:
    rng = loop.rng
    ghosts = [s for s in (2, 7, 9, 14, 15) if rng.random() < 0.4]
    layers = _drums(
        loop,
        _bars([0, 10] if rng.random() < 0.7 else [0, 6, 10]),
        _bars([4, 12]) + [s + 16 * int(rng.integers(0, 4)) for s in ghosts],
        _bars(list(range(0, 16, int(rng.choice([1, 2]))))),
        _bars([6]) if rng.random() < 0.3 else [],
    )
    degrees = rng.choice([0, 0, 2, 3, 4], size=6).tolist()
    steps = _bars(sorted(rng.choice(16, size=int(rng.integers(2, 6)), replace=False).tolist()))
    layers.append(
        (0.9, _bass(loop, steps, degrees, rng.uniform(2, 6), rng.uniform(250, 900), rng.uniform(0.004, 0.02)))
    )
    if rng.random() < 0.7:
        layers.append(
            (rng.uniform(0.1, 0.5), _reverb(_pad(loop, _chords(rng), 2, rng.uniform(800, 3000), 0.004), 3, 0.5, rng))
        )
    return layers


def _house(loop: Loop) -> Layers:
    rng = loop.rng
    layers = _drums(
        loop,
        _four_on_the_floor(rng),
        _bars([4, 12]),
        _bars(sorted(rng.choice(16, size=6, replace=False).tolist())),
        _bars([2, 6, 10, 14]),
    )
    chords = _chords(rng)
    steps = _bars(
        sorted(rng.choice([0, 3, 5, 6, 8, 10, 11, 13, 14], size=int(rng.integers(3, 6)), replace=False).tolist())
    )

    def stab(n: int) -> np.ndarray:
        notes = [
            _pluck(
                loop.hz(degree, 2),
                loop.seconds(rng.uniform(1, 3)),
                rng.uniform(900, 3500),
                0.002,
                np.random.default_rng(n),
            )
            for degree in chords[n % len(chords)]
        ]
        longest = max(len(note) for note in notes)
        return np.asarray(np.sum([np.pad(note, (0, longest - len(note))) for note in notes], axis=0))

    layers.append((rng.uniform(0.15, 0.4), _reverb(_play(loop, stab, steps), 1.2, 0.3, rng)))
    groove = _bars(
        sorted(rng.choice([0, 2, 3, 6, 7, 10, 11, 14], size=int(rng.integers(3, 6)), replace=False).tolist())
    )
    layers.append((0.7, _bass(loop, groove, [c[0] for c in chords], rng.uniform(1, 2.5), rng.uniform(300, 900), 0.001)))
    return layers


def _techno(loop: Loop) -> Layers:
    rng = loop.rng
    layers = _drums(
        loop,
        _four_on_the_floor(rng),
        _bars([4, 12]) if rng.random() < 0.4 else [],
        _bars(list(range(0, 16, int(rng.choice([1, 2]))))),
        _bars([2, 6, 10, 14]) if rng.random() < 0.6 else [],
    )
    kick = layers[0][1]
    layers.append(
        (rng.uniform(0.3, 0.7), _reverb(_band(kick, 30, 120), rng.uniform(0.4, 1.2), 0.9, rng))
    )  # rumble under the kick
    steps = _bars(sorted(rng.choice(16, size=int(rng.integers(3, 9)), replace=False).tolist()))
    layers.append(
        (
            rng.uniform(0.15, 0.45),
            _reverb(
                _bass(
                    loop,
                    steps,
                    rng.choice([0, 0, 0, 1], size=5).tolist(),
                    rng.uniform(0.6, 1.5),
                    rng.uniform(400, 2500),
                    rng.uniform(0, 0.01),
                ),
                1.0,
                0.3,
                rng,
            ),
        )
    )
    layers.append((rng.uniform(0.02, 0.1), _band(rng.standard_normal(loop.frames), 800, rng.uniform(3000, 9000))))
    return layers


def _trance(loop: Loop) -> Layers:
    rng = loop.rng
    layers = _drums(
        loop,
        _four_on_the_floor(rng),
        _bars([4, 12]) if rng.random() < 0.7 else [],
        _bars(list(range(0, 16, 2))),
        _bars([2, 6, 10, 14]),
    )
    chords = _chords(rng)
    rolling = _bars([s for s in range(16) if s % 4] if rng.random() < 0.6 else [2, 6, 10, 14])
    layers.append((0.7, _bass(loop, rolling, [0], 1.0, rng.uniform(300, 1200), 0.001)))
    layers.append(
        (
            rng.uniform(0.2, 0.6),
            _reverb(_pad(loop, chords, 2, rng.uniform(2500, 7000), rng.uniform(0.006, 0.014)), 2.5, 0.4, rng),
        )
    )
    order = rng.permutation(4).tolist()

    def note(n: int) -> np.ndarray:
        chord = chords[n * len(chords) // 64 % len(chords)]
        return _pluck(
            loop.hz(chord[order[n % 4] % len(chord)], 3), loop.seconds(1.5), rng.uniform(2500, 6000), 0.006, rng
        )

    if rng.random() < 0.85:
        layers.append((rng.uniform(0.2, 0.5), _reverb(_play(loop, note, list(range(64))), 2.0, 0.4, rng)))
    return layers


_LAYERS: dict[str, Callable[[Loop], Layers]] = {
    "ambient": _ambient,
    "drum and bass": _drum_and_bass,
    "house": _house,
    "techno": _techno,
    "trance": _trance,
}


def _loop(genre: str, seed: int) -> Loop:
    rng = np.random.default_rng([seed, GENRES.index(genre)])
    return Loop(
        rng.uniform(*TEMPO_BPM[genre]),
        float(rng.choice([0.0, 0.0, rng.uniform(0.02, 0.15)])),
        55 * 2 ** (rng.uniform(-4, 8) / 12),
        rng,
    )


def track_tempo_bpm(genre: str, seed: int) -> float:
    """The true tempo of ``make_track(genre, seed)`` in beats a minute."""
    return LOOP_BARS * 4 * 60 * SAMPLE_RATE_HZ / _loop(genre, seed).frames


def track_tonic_hz(genre: str, seed: int) -> float:
    """The frequency of the tonic of ``make_track(genre, seed)``; all tracks are in natural minor, tuned at random."""
    return _loop(genre, seed).root_hz


def make_track(genre: str, seed: int, duration_s: float = 25.0) -> np.ndarray:
    """One track (frames, 2) float32 at SAMPLE_RATE_HZ, peak 0.5 to 0.95; ``genre`` is one of GENRES."""
    loop = _loop(genre, seed)
    rng = loop.rng
    frames = round(duration_s * SAMPLE_RATE_HZ)
    repeats = -(-frames // loop.frames)
    mix = np.zeros((frames, 2))
    for level, samples in _LAYERS[genre](loop):
        peak = np.abs(samples).max()
        if peak == 0:
            continue
        shape = _arrangement(rng, repeats, loop.frames)[:frames]
        pan = rng.uniform(-0.3, 0.3)
        mono = np.tile(samples / peak, repeats)[:frames] * shape * level
        mix += mono[:, None] * (1 + np.array([-pan, pan]))
    mix += rng.standard_normal(mix.shape) * 10 ** rng.uniform(-5, -3)  # noise floor
    drive = rng.uniform(0.5, 1.5)
    mix = np.tanh(drive * mix / np.abs(mix).max())
    return np.asarray(mix / np.abs(mix).max() * rng.uniform(0.5, 0.95), dtype=np.float32)


def _arrangement(rng: np.random.Generator, repeats: int, loop_frames: int) -> np.ndarray:
    """A layer's level over the track (frames,): random for each half loop, with ramps between."""
    halves = rng.choice([1.0, 1.0, 1.0, rng.uniform(0, 0.4)], size=2 * repeats + 1)
    points = np.arange(2 * repeats + 1) * loop_frames / 2
    return np.asarray(np.interp(np.arange(repeats * loop_frames), points, halves))
