"""Checks whether a library is sound: what SQLite finds wrong with its file, and rows that contradict each other.

Each check stands alone, and passes on SQLite's error where the file is too damaged for it. Reads only.
"""

from collections.abc import Iterator

from indexer.library.sqlite import Reader


def damage(reader: Reader, at_most: int) -> Iterator[str]:
    """Yield a line for each fault that SQLite finds in the file; reads all of it."""
    for (line,) in reader.execute(f"PRAGMA quick_check({at_most})"):
        if line != "ok":
            yield line


def orphaned_rows(reader: Reader) -> int:
    """The number of rows that refer to missing rows."""
    return sum(1 for _ in reader.execute("PRAGMA foreign_key_check"))


def wrongly_sized_embeddings(reader: Reader) -> int:
    """The number of embeddings of another size than their encoder makes."""
    (count,) = reader.execute(
        "SELECT count(*) FROM embeddings e JOIN encoders c ON c.id = e.encoder_id WHERE length(e.vector) <> 2 * c.width"
    ).fetchone()
    return int(count)


def unsettled_tag_writes(reader: Reader) -> int:
    """The number of tag writes that were announced and not settled.

    Hold the library's lock, or a write in progress may be counted.
    """
    (count,) = reader.execute("SELECT count(*) FROM tag_writes WHERE state = 'intended'").fetchone()
    return int(count)
