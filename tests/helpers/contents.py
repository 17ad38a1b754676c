"""What files and libraries hold, to be compared."""

import sqlite3
from pathlib import Path

import mutagen
import numpy as np


def rows(cli, sql, *values):
    conn = sqlite3.connect(cli.db)
    conn.row_factory = sqlite3.Row
    found = [dict(r) for r in conn.execute(sql, values)]
    conn.close()
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def genre_of(path: Path) -> str | None:
    file = mutagen.File(path)
    key = {"MP3": "TCON", "WAVE": "TCON", "AIFF": "TCON", "MP4": "\xa9gen"}.get(type(file).__name__, "genre")
    if not file.tags or key not in file.tags:
        return None
    value = file.tags[key]
    return str(value.text[0] if key == "TCON" else value[0])


def scanned_contents(db):
    """What two scans of the same files must agree on."""
    conn = sqlite3.connect(db)
    found = {
        "recordings": conn.execute(
            "SELECT audio_sha256, codec, sample_rate_hz, channels, duration_s, reason FROM recordings ORDER BY 1"
        ).fetchall(),
        "files": conn.execute(
            "SELECT f.path, f.state, f.reason, f.container, f.dev, f.ino, f.size, f.mtime_ns, r.audio_sha256"
            " FROM files f LEFT JOIN recordings r ON r.id = f.recording_id ORDER BY 1"
        ).fetchall(),
        "predictions": conn.execute(
            "SELECT r.audio_sha256, p.genre, p.decided, p.second_genre"
            " FROM predictions p JOIN recordings r ON r.id = p.recording_id ORDER BY 1"
        ).fetchall(),
        "tags": conn.execute(
            "SELECT f.path, t.title, t.artist, t.genre FROM tags t JOIN files f ON f.id = t.file_id ORDER BY 1"
        ).fetchall(),
    }
    vectors = conn.execute(
        "SELECT r.audio_sha256, e.encoder_id, e.units, e.vector, e.course"
        " FROM embeddings e JOIN recordings r ON r.id = e.recording_id ORDER BY 1, 2"
    ).fetchall()
    conn.close()
    return found, vectors


def assert_same(one, other, tolerance=0.0):
    """The same recordings, files and predictions, and vectors within a tolerance relative to their length."""
    (found, vectors), (expected, theirs) = scanned_contents(one), scanned_contents(other)
    assert found == expected
    assert [row[:3] for row in vectors] == [row[:3] for row in theirs]
    for row, their in zip(vectors, theirs, strict=True):
        a, b = np.frombuffer(row[3], "<f2").astype(float), np.frombuffer(their[3], "<f2").astype(float)
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)
        assert tolerance or row[4] == their[4]
