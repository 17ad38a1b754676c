"""Makes a small JPEG of an untrusted picture, so that no byte of the picture itself ever reaches a browser.

Decides by the first bytes what a picture is; only the decoders of four still formats ever see one. FFmpeg (through
PyAV) decodes and scales. Runs in a reader process with limits of memory and time. Never writes.
"""

from fractions import Fraction
from typing import Any

import av

# The first bytes of each format, and FFmpeg's decoder for it. Never SVG, which is a program.
_MAGIC = {b"\xff\xd8\xff": "mjpeg", b"\x89PNG\r\n\x1a\n": "png", b"GIF87a": "gif", b"GIF89a": "gif"}
MAX_PIXELS = 50_000_000
_QUALITY = "4"  # FFmpeg's scale of JPEG, 2 to 31, the best first


class NoPictureError(ValueError):
    """Bytes that are no picture of a known kind, or one too large to be opened."""


def decoder_of(data: bytes) -> str | None:
    """FFmpeg's decoder for a picture, by its first bytes; None for anything but JPEG, PNG, GIF and WebP."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((decoder for magic, decoder in _MAGIC.items() if data.startswith(magic)), None)


def thumbnail(data: bytes, side_px: int) -> bytes:
    """A JPEG of a picture, its longer side at most ``side_px``; of an animation, the first image.

    Raises NoPictureError.
    """
    decoder = decoder_of(data)
    if decoder is None:
        raise NoPictureError("neither JPEG, PNG, GIF nor WebP")
    try:
        frame = _decoded(decoder, data)
    except (av.error.FFmpegError, ValueError) as e:
        raise NoPictureError(str(e)) from e
    if frame is None:
        raise NoPictureError("it holds no image")
    scale = min(1.0, side_px / max(frame.width, frame.height))
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, "yuvj420p", Fraction(1)
    encoder.options = {"qmin": _QUALITY, "qmax": _QUALITY}
    small = frame.reformat(width=width, height=height, format="yuvj420p", interpolation="AREA")
    return b"".join(bytes(packet) for packet in [*encoder.encode(small), *encoder.encode(None)])


def _decoded(decoder: str, data: bytes) -> Any:
    context: Any = av.CodecContext.create(decoder, "r")
    context.thread_count = 1
    context.options = {"max_pixels": str(MAX_PIXELS)}
    frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    return frames[0] if frames else None
