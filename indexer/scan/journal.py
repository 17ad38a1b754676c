"""Writes tags with a journal: announces, renames and confirms a write; settles writes after a crash; undoes them.

Joins the tag writer (files) and the store (rows), which do not know each other. Never edits a file itself.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from indexer.errors import FileError, WriteRefusedError
from indexer.files.children.limits import Limits
from indexer.files.children.worker import Worker
from indexer.files.tags.copies import remove_copies
from indexer.files.tags.genre import joined
from indexer.files.tags.read import Tags
from indexer.files.tags.write import Prepared, commit, settle
from indexer.library.store import Store
from indexer.library.writing.files import FileRow
from indexer.library.writing.journal import parse_stat


def tag_columns(found: Tags) -> dict[str, str | int | float | None]:
    """The values of the columns of the table ``tags`` for a file's tags."""
    return {
        "title": found.title,
        "artist": found.artist,
        "album": found.album,
        "album_artist": found.album_artist,
        "year": found.year,
        "record_label": found.record_label,
        "comment": found.comment,
        "genre": found.genre,
        "indexer_genre": found.ours.to_text() if found.ours else None,
        "dj_data": ", ".join(found.dj_data) or None,
        **_columns_added(found),
    }


def _columns_added(found: Tags) -> dict[str, str | float | None]:
    """The columns of the table ``tags`` that a write may change beside the genre."""
    return {
        "bpm": found.bpm,
        "musical_key": found.musical_key,
        "indexer_added": found.added,
        "set_fields": json.dumps(found.set_fields, ensure_ascii=False) if found.set_fields else None,
    }


def commit_write(
    store: Store,
    prepared: Prepared,
    *,
    file_id: int | None,
    run_id: int | None,
    ours: str | None,
    is_undo: bool = False,
    still_undone: bool = False,
) -> None:
    """Put a prepared copy in its file's place, with its journal entry.

    ours: our own field as the copy carries it; None for an undo, or where no genre of ours stands. still_undone: an
    earlier undo goes on to hold back all else. Raises DeferredError when the file changed meanwhile.
    """
    path = os.fsencode(prepared.path)
    columns = _columns_added(prepared.after_tags)

    def intend(p: Prepared) -> int:
        return store.intend_write(
            file_id=file_id,
            run_id=run_id,
            path=path,
            action="undo" if is_undo else "write",
            before=p.before_genres,
            after=p.after_genres,
            stat_before=p.before,
            stat_after=p.after,
            evidence={
                **p.evidence,
                "indexer_genre": ours,
                "columns": columns,
                **({"still_undone": True} if still_undone else {}),
            },
        )

    def done(write_id: int) -> None:
        with store.transaction():
            store.settle_write(write_id, "done")
            if file_id is not None:
                store.set_file_stat(file_id, prepared.after)
                store.put_tags(
                    file_id, {**columns, "genre": joined(prepared.after_genres) or None, "indexer_genre": ours}
                )

    def drop(write_id: int, reason: str) -> None:
        store.settle_write(write_id, "dropped", reason)

    commit(prepared, intend=intend, done=done, drop=drop)


def settle_open_writes(store: Store) -> int:
    """Settle the writes that a crash left announced but not confirmed; returns how many were settled.

    A write on a drive that is not there stays open until a later start.
    """
    settled = 0
    for row in store.open_writes():
        after = parse_stat(row["stat_after"])
        state = settle(row["path"], parse_stat(row["stat_before"]), after)
        if state is None:
            continue
        with store.transaction():
            store.settle_write(row["id"], state, None if state == "done" else "settled after a crash")
            if state == "done" and row["file_id"] is not None:
                store.set_file_stat(row["file_id"], after)
                evidence = json.loads(row["evidence"])
                if "indexer_genre" in evidence:
                    columns = {
                        "genre": joined(json.loads(row["after"])) or None,
                        "indexer_genre": evidence["indexer_genre"],
                    }
                    store.put_tags(row["file_id"], {**evidence.get("columns", {}), **columns})
                else:  # announced by an earlier version
                    store.reread(row["file_id"])
        settled += 1
    return settled


@dataclass
class Undone:
    """What an undo did."""

    restored: list[str] = field(default_factory=list)
    nothing: list[str] = field(default_factory=list)  # files that carry nothing of ours
    refused: list[tuple[str, str]] = field(default_factory=list)  # (path, reason)


def undo(
    store: Store,
    targets: Iterable[FileRow | bytes],
    limits: Limits,
    *,
    force: bool = False,
    preserve_mtime: bool = False,
) -> Undone:
    """Restore the former genre and remove our fields, file by file.

    The file's own fields are enough: it needs no row. A genre that the user changed since is left alone unless
    ``force``.
    """
    result = Undone()
    worker = Worker(limits)
    try:
        for target in targets:
            row = target if isinstance(target, FileRow) else store.file_at(target)
            path = row.path if row else target
            assert isinstance(path, bytes)
            _undo_one(store, worker, path, row, result, force=force, preserve_mtime=preserve_mtime)
    finally:
        worker.close()
    return result


def _undo_one(
    store: Store, worker: Worker, path: bytes, row: FileRow | None, result: Undone, *, force: bool, preserve_mtime: bool
) -> None:
    name = os.fsdecode(path)
    try:
        inspected = worker.call("read_tags", path)
        found = Tags.from_json(inspected["tags"])
        if found.unread:
            raise WriteRefusedError(name, found.unread)
        if found.ours is None and found.added is None:
            result.nothing.append(name)
            return
        if not force and found.ours is not None and not found.genre_is_ours:
            raise WriteRefusedError(
                name, "the genre was changed since we wrote it (use --force to restore the former one all the same)"
            )
        prepared = Prepared.from_json(
            worker.call(
                "prepare_write", path, container=inspected["container"], edit=None, preserve_mtime=preserve_mtime
            ),
            name,
        )
        commit_write(store, prepared, file_id=row.id if row else None, run_id=None, ours=None, is_undo=True)
        result.restored.append(name)
    except FileError as e:
        result.refused.append((name, e.reason))
        with suppress(OSError):
            remove_copies(path)  # left by a reader that was killed
