"""The music folders that the library knows, for commands that only read. The store changes them."""

from pathlib import Path

from indexer.library.readonly import reading
from indexer.library.sqlite import Reader


def root_paths(reader: Reader) -> list[bytes]:
    """The path of every root, in bytewise order."""
    return [row["path"] for row in reader.execute("SELECT path FROM roots ORDER BY path")]


def offline_roots(reader: Reader) -> list[bytes]:
    """The path of every root whose drive was away when it was last scanned."""
    return [row["path"] for row in reader.execute("SELECT path FROM roots WHERE state = 'offline'")]


def known_roots(db: Path) -> list[bytes]:
    """The path of every root of a library; empty where there is no library yet. Raises StoreError."""
    if not db.exists():
        return []
    with reading(db) as conn:
        return root_paths(conn)
