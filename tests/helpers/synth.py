"""Synthesised audio for tests, in any container that the program reads; made with PyAV or soundfile."""

from pathlib import Path

import av
import numpy as np
import soundfile

# name -> (file ending, PyAV codec, or None for soundfile's own writer)
CONTAINERS = {
    "mp3": (".mp3", "libmp3lame"),
    "flac": (".flac", None),
    "vorbis": (".ogg", None),
    "opus": (".opus", "libopus"),
    "m4a": (".m4a", "aac"),
    "alac": (".m4a", "alac"),
    "wav": (".wav", None),
    "aiff": (".aiff", None),
    "wavpack": (".wv", "wavpack"),
    "wma": (".wma", "wmav2"),
    "oggflac": (".oga", "flac"),
    "aac": (".aac", "aac"),
}


def music(seconds: float = 2.0, *, sample_rate_hz: int = 44_100, channels: int = 2, seed: int = 0) -> np.ndarray:
    """Kick, bass and noise hats; float32 [frames, channels], peak about 0.8, different for every seed."""
    rng = np.random.default_rng(seed)
    frames = round(seconds * sample_rate_hz)
    t = np.arange(frames) / sample_rate_hz
    beat_s = 60 / rng.uniform(90, 180)
    phase = t % beat_s
    kick = np.sin(2 * np.pi * 55 * phase) * np.exp(-18 * phase)
    bass = 0.4 * np.sign(np.sin(2 * np.pi * rng.uniform(40, 120) * t))
    hats = rng.standard_normal(frames) * np.exp(-60 * ((t + beat_s / 2) % beat_s))
    mono = kick + bass + 0.3 * hats
    out = np.stack([np.roll(mono, 30 * c) for c in range(channels)], axis=1)
    return (0.8 * out / max(1e-9, float(np.abs(out).max()))).astype(np.float32)


def write_audio(
    path: Path,
    container: str = "wav",
    seconds: float = 2.0,
    *,
    sample_rate_hz: int = 44_100,
    channels: int = 2,
    seed: int = 0,
) -> Path:
    """Write ``music`` in one of CONTAINERS to path (ending added when missing); return the path."""
    if container == "opus":
        sample_rate_hz = 48_000
    return write_samples(
        path, container, music(seconds, sample_rate_hz=sample_rate_hz, channels=channels, seed=seed), sample_rate_hz
    )


def write_samples(
    path: Path, container: str, data: np.ndarray, sample_rate_hz: int, *, bit_rate: int | None = None
) -> Path:
    """Write samples [frames, channels] in one of CONTAINERS to path (ending added when missing); return the path.

    ``bit_rate``: bits a second of a lossy codec; None: its own default.
    """
    ending, codec = CONTAINERS[container]
    if not path.suffix:
        path = path.with_suffix(ending)
    if codec is None:
        fmt, subtype = {
            "wav": ("WAV", "PCM_16"),
            "aiff": ("AIFF", "PCM_16"),
            "flac": ("FLAC", "PCM_16"),
            "vorbis": ("OGG", "VORBIS"),
        }[container]
        with soundfile.SoundFile(path, "w", sample_rate_hz, data.shape[1], subtype, format=fmt) as file:
            for start in range(0, len(data), 1 << 20):  # libsndfile crashes on minutes of Vorbis at once
                file.write(data[start : start + (1 << 20)])
        return path
    muxer = {
        "aac": "adts",
        "wma": "asf",
        "oggflac": "ogg",
        "m4a": "ipod",
        "alac": "ipod",
        "wavpack": "wv",
        "opus": "ogg",
        "mp3": "mp3",
    }[container]
    layout = "mono" if data.shape[1] == 1 else "stereo"
    with av.open(str(path), "w", format=muxer) as out:
        stream = out.add_stream(codec, rate=sample_rate_hz)
        stream.layout = layout
        if bit_rate or container == "wma":
            stream.bit_rate = bit_rate or 128_000
        resampler = av.AudioResampler(format=stream.codec_context.format or "fltp", layout=layout, rate=sample_rate_hz)
        step = 4096
        for start in range(0, len(data), step):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(data[start : start + step].T), format="fltp", layout=layout
            )
            frame.sample_rate = sample_rate_hz
            frame.pts = start
            for piece in resampler.resample(frame):
                for packet in stream.encode(piece):
                    out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return path
