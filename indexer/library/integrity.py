"""Whether a library is sound: what SQLite finds wrong with its file, and rows that contradict each other.

Each check reads by itself and raises what SQLite raises where the file is too damaged for it. Reads only.
"""

from collections.abc import Iterator

from indexer.library.readonly import Reader


def damage(reader: Reader, at_most: int) -> Iterator[str]:
    """What SQLite finds wrong with the file, a line each; reads all of it."""
    for (line,) in reader.execute(f"PRAGMA quick_check({at_most})"):
        if line != "ok":
            yield line


def orphaned_rows(reader: Reader) -> int:
    """Rows that belong to rows that are not there."""
    return sum(1 for _ in reader.execute("PRAGMA foreign_key_check"))


def wrongly_sized_embeddings(reader: Reader) -> int:
    """Embeddings of another size than their encoder makes."""
    (count,) = reader.execute(
        "SELECT count(*) FROM embeddings e JOIN encoders c ON c.id = e.encoder_id WHERE length(e.vector) <> 2 * c.width"
    ).fetchone()
    return int(count)


def unsettled_tag_writes(reader: Reader) -> int:
    """Tag writes that were announced and neither done nor dropped; hold the library's lock, or one may be in work."""
    (count,) = reader.execute("SELECT count(*) FROM tag_writes WHERE state = 'intended'").fetchone()
    return int(count)
