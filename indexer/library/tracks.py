"""Looks up single files and recordings for commands: their names, tags and lengths. Reads only."""

from dataclasses import dataclass

from indexer.files.audio.identity import Stat
from indexer.library.sqlite import Reader


@dataclass(frozen=True, slots=True)
class Track:
    """A file of a recording, with the names in its tags."""

    path: bytes
    title: str | None
    artist: str | None


@dataclass(frozen=True, slots=True)
class Classified:
    """The prediction for one file, as the view ``tracks`` shows it."""

    genre: str | None
    decided: bool


@dataclass(frozen=True, slots=True)
class Total:
    """All recordings of the library together."""

    recordings: int
    audio_s: float


def ready_stat(reader: Reader, path: bytes) -> Stat | None:
    """Device, inode, size and time of a file when it was last read; None when it is not known as readable."""
    row = reader.execute(
        "SELECT dev, ino, size, mtime_ns FROM files WHERE path = ? AND state = 'ready'", (path,)
    ).fetchone()
    return None if row is None else Stat(*row)


def tag_genre(reader: Reader, path: bytes) -> str | None:
    """The genre in a file's tags when it was last read; None without one."""
    row = reader.execute(
        "SELECT t.genre FROM files f LEFT JOIN tags t ON t.file_id = f.id WHERE f.path = ?", (path,)
    ).fetchone()
    return row["genre"] if row else None


def label_in_tags(reader: Reader, path: bytes, field: str) -> tuple[str | None, str | None]:
    """The text in a label set's field of a file when it was last read, and why the file's last write was refused."""
    row = reader.execute(
        "SELECT json_extract(t.set_fields, '$.' || ?) AS label, w.reason FROM files f"
        " LEFT JOIN tags t ON t.file_id = f.id LEFT JOIN tag_writes w ON w.state = 'refused'"
        " AND w.id = (SELECT max(x.id) FROM tag_writes x WHERE x.file_id = f.id) WHERE f.path = ?",
        (field, path),
    ).fetchone()
    return (row["label"], row["reason"]) if row else (None, None)


def track_of(reader: Reader, recording_id: int) -> Track:
    """One file of a recording, a readable one where there is one."""
    row = reader.execute(
        "SELECT f.path, t.title, t.artist FROM files f LEFT JOIN tags t ON t.file_id = f.id WHERE f.recording_id = ?"
        " ORDER BY f.state = 'ready' DESC, f.path LIMIT 1",
        (recording_id,),
    ).fetchone()
    return Track(row["path"], row["title"], row["artist"])


def sample_of_paths(reader: Reader, count: int) -> list[bytes]:
    """Paths of readable files longer than a minute, spread over the library; the same ones each time."""
    rows = reader.execute(
        "SELECT f.path FROM files f JOIN recordings r ON r.id = f.recording_id WHERE f.state = 'ready' AND"
        " r.duration_s > 60"
        " ORDER BY (f.id * 2654435761) % 4294967296 LIMIT ?",
        (count,),
    )
    return [row["path"] for row in rows]


def total(reader: Reader) -> Total:
    """How many recordings there are and how long they are together."""
    row = reader.execute("SELECT count(*) AS n, coalesce(sum(duration_s), 0) AS audio_s FROM recordings").fetchone()
    return Total(row["n"], row["audio_s"])


def classified_by_path(reader: Reader) -> dict[str, Classified]:
    """The prediction for every file, by path as text."""
    rows = reader.execute("SELECT path, genre, decided FROM tracks")
    return {row["path"]: Classified(row["genre"], bool(row["decided"])) for row in rows}
