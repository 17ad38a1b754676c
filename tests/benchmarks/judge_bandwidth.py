"""How often a lossless file that was lossy once is told, and how often one that never was is wrongly called so.

Synthesised tracks, and real ones where folders are named, go through ffmpeg's encoders and back to 16 bits (lossy), or
through filters, converters and simulated records (not lossy). Prints the tables of docs/accuracy.md.

    python -m tests.benchmarks.judge_bandwidth [--real FOLDER --every 6]
"""

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from indexer.analysis.bandwidth import Bandwidth, BandwidthMeter
from indexer.encoders.synthesis import GENRES, SAMPLE_RATE_HZ, make_track
from indexer.files.audio.decode import decode

SECONDS = 25.0
CODECS = {
    "MP3 128 kbit/s": ("mp3", "-c:a libmp3lame -b:a 128k"),
    "MP3 192": ("mp3", "-c:a libmp3lame -b:a 192k"),
    "MP3 256": ("mp3", "-c:a libmp3lame -b:a 256k"),
    "MP3 320": ("mp3", "-c:a libmp3lame -b:a 320k"),
    "MP3 V2 (variable, about 190)": ("mp3", "-c:a libmp3lame -q:a 2"),
    "MP3 V0 (variable, about 245)": ("mp3", "-c:a libmp3lame -q:a 0"),
    "AAC 128": ("m4a", "-c:a aac -b:a 128k"),
    "AAC 256": ("m4a", "-c:a aac -b:a 256k"),
    "Vorbis q4 (about 128)": ("ogg", "-c:a libvorbis -q:a 4"),
    "Vorbis q6 (about 192)": ("ogg", "-c:a libvorbis -q:a 6"),
    "Opus 128": ("opus", "-c:a libopus -b:a 128k"),
}
Gain = Callable[[np.ndarray], np.ndarray]


def judged(sound: np.ndarray, rate_hz: int) -> Bandwidth | None:
    meter = BandwidthMeter(rate_hz)
    for start in range(0, len(sound), rate_hz):
        meter.push(sound[start : start + rate_hz].astype(np.float32))
    return meter.finish()


def filtered(sound: np.ndarray, gain: Gain) -> np.ndarray:
    hz = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE_HZ)
    return np.fft.irfft(np.fft.rfft(sound) * gain(hz), len(sound))


def in_bits(sound: np.ndarray, bits: int = 16) -> np.ndarray:
    """With triangular dither."""
    rng = np.random.default_rng(len(sound))
    dither = rng.random(len(sound)) - rng.random(len(sound))
    return np.round(sound * 2.0 ** (bits - 1) + dither) / 2.0 ** (bits - 1)


def lowpass(cutoff_hz: float, order: int) -> Gain:
    return lambda hz: (1 + (hz / cutoff_hz) ** (2 * order)) ** -0.5


def steep(first_hz: float, last_hz: float) -> Gain:
    return lambda hz: np.interp(hz, [first_hz, last_hz], [1, 1e-4])


def record(sound: np.ndarray) -> np.ndarray:
    """A record: faded above 13 kHz, with its surface noise."""
    noise = filtered(np.random.default_rng(7).standard_normal(len(sound)), lowpass(9_000, 1))
    return filtered(sound, lowpass(13_000, 3)) + 3e-4 * noise


def never_lossy(sound: np.ndarray) -> Iterator[tuple[str, np.ndarray, int]]:
    """(how it was treated, the samples, their rate in Hz)."""
    for cutoff_hz, order in ((4_000, 4), (10_000, 2), (16_000, 4), (16_000, 8), (18_000, 4)):
        name = f"lowpass of {6 * order} dB an octave at {cutoff_hz // 1000} kHz"
        yield name, in_bits(filtered(sound, lowpass(cutoff_hz, order))), SAMPLE_RATE_HZ
    yield "40 dB quieter, faded at 15 kHz", in_bits(0.01 * filtered(sound, lowpass(15_000, 4))), SAMPLE_RATE_HZ
    yield "a record, simulated", in_bits(record(sound)), SAMPLE_RATE_HZ
    yield "to 48 kHz (soxr HQ)", in_bits(soxr.resample(sound, SAMPLE_RATE_HZ, 48_000, "HQ")), 48_000
    yield "to 96 kHz, 24 bits (soxr HQ)", in_bits(soxr.resample(sound, SAMPLE_RATE_HZ, 96_000, "HQ"), 24), 96_000
    full = soxr.resample(sound, SAMPLE_RATE_HZ, 96_000, "VHQ")
    full += 1e-4 * np.random.default_rng(8).standard_normal(len(full))
    for quality in ("VHQ", "HQ", "MQ", "LQ"):
        name = f"a master at 96 kHz, to 44.1 (soxr {quality})"
        yield name, in_bits(soxr.resample(full, 96_000, SAMPLE_RATE_HZ, quality)), SAMPLE_RATE_HZ
    yield "a converter that falls from 20 to 21.5 kHz", in_bits(filtered(sound, steep(20_000, 21_500))), SAMPLE_RATE_HZ
    yield (
        "a converter that falls from 19.5 to 20.5 kHz",
        in_bits(filtered(sound, steep(19_500, 20_500))),
        SAMPLE_RATE_HZ,
    )
    yield "FM radio (15 to 16 kHz)", in_bits(filtered(sound, steep(15_000, 16_000))), SAMPLE_RATE_HZ


def transcoded(wav: Path, folder: Path, ending: str, options: str) -> np.ndarray:
    """Encoded, decoded to 16 bits at 44.1 kHz, mixed."""
    lossy, back = folder / f"lossy.{ending}", folder / "back.wav"
    run = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-threads", "1", "-i"]
    subprocess.run([*run, wav, *options.split(), lossy], check=True)
    subprocess.run([*run, lossy, "-ar", str(SAMPLE_RATE_HZ), "-sample_fmt", "s16", back], check=True)
    return np.asarray(soundfile.read(back)[0]).mean(axis=1)


def excerpt(path: Path) -> np.ndarray | None:
    """25 s of a real track, (n,); None for a shorter one."""
    sound = np.concatenate(list(decode(path, sample_rate_hz=SAMPLE_RATE_HZ)))
    start = min(30 * SAMPLE_RATE_HZ, len(sound) // 3)
    sound = sound[start : start + round(SECONDS * SAMPLE_RATE_HZ)]
    return sound if len(sound) > 10 * SAMPLE_RATE_HZ else None


def table(title: str, sounds: Iterator[np.ndarray], *, is_real: bool) -> None:
    found: dict[str, list[Bandwidth | None]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for sound in sounds:
            soundfile.write(folder / "a.wav", np.stack([sound, sound], axis=1), SAMPLE_RATE_HZ, subtype="PCM_16")
            found.setdefault("as it is", []).append(judged(soundfile.read(folder / "a.wav")[0][:, 0], SAMPLE_RATE_HZ))
            for codec, (ending, options) in CODECS.items():
                back = transcoded(folder / "a.wav", folder, ending, options)
                found.setdefault(codec, []).append(judged(back, SAMPLE_RATE_HZ))
            # A real track that was lossy before keeps its edge, but where a filter hides it.
            wanted = (f"lowpass of {slope} at 4 kHz" for slope in ("24 dB an octave",)) if is_real else None
            names = set(wanted) if wanted is not None else None
            for treatment, samples, rate_hz in never_lossy(sound):
                if names is None or treatment in names:
                    found.setdefault(treatment, []).append(judged(samples, rate_hz))
    print(f"\n| {title} | tracks | called lossy | median `bandwidth_hz` |\n|---|---|---|---|")
    for treatment, results in found.items():
        heard = [one for one in results if one is not None]
        called = sum(one.is_lossy_edge for one in heard)
        median = f"{np.median([one.bandwidth_hz for one in heard]):,.0f}" if heard else "-"
        print(f"| {treatment} | {len(results)} | {called} | {median} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, action="append", default=[], help="folder of real tracks")
    parser.add_argument("--every", type=int, default=1, help="take every so many of them")
    parser.add_argument("--tracks", type=int, default=6, help="synthesised tracks of each genre")
    chosen = parser.parse_args()
    made = (make_track(genre, 500 + n, SECONDS).mean(axis=1) for genre in GENRES for n in range(chosen.tracks))
    table("synthesised", made, is_real=False)
    for folder in chosen.real:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())[:: chosen.every]
        real = (sound for path in paths if (sound := excerpt(path)) is not None)
        table(f"real: {folder.name}", real, is_real=True)


if __name__ == "__main__":
    main()
