"""The stage *read*: a file's identity and tags become its row, or the reason why it could not be read does."""

import os
from contextlib import suppress
from functools import partial
from typing import Any

from indexer.errors import DeferredError, FileError, ReaderDiedError
from indexer.files.audio.identity import Stat
from indexer.files.links import is_file, look
from indexer.files.tags.read import Tags
from indexer.library.store import Store
from indexer.library.writing.files import FileRow
from indexer.scan.journal import tag_columns
from indexer.scan.work import NO_GENRE, Changed, FileFailedError, FileGoneError, Item, KnownFile, Run, Stage, Wait
from indexer.wording import escaped

MAX_DEATHS = 2  # a file that killed this many readers, in any runs, is left alone; the first death may be chance
MAX_DEFERRED = 10_000  # deferred files that the result lists
MAX_COPIES = 50  # files of one recording that are checked when another file of it appears


def known_file(store: Store, file_id: int) -> KnownFile:
    """Return a file that was read before. Raises FileGoneError where it was found changed or gone since."""
    row = store.file(file_id)
    if row.recording_id is None or row.state != "ready":
        raise FileGoneError(noted=False)
    return KnownFile(row, row.recording_id)


def read(run: Run, item: Changed) -> Stage[KnownFile]:
    """Have the file inspected and store what was found."""
    try:
        before = Stat.from_result(look(item.path))
    except OSError as e:  # gone since the walk; the next scan notes it
        raise FileGoneError(noted=False) from e
    done = yield Wait(partial(run.executor.inspect, item.path, before))
    try:
        found = done.result()
    except FileError as e:
        raise not_read(run, item.path, None, before, item.root_id, None, e) from e
    return _store_found(run.store, item, found)


def _no_genre(*reasons: str | None) -> str | None:
    """Why no genre is ever written into a file that can be heard, from each reason that there is; None without any."""
    why = "; ".join(filter(None, reasons))
    return f"{why}; {NO_GENRE}" if why else None


def report_left_alone(run: Run, file: KnownFile) -> None:
    """Tell once why no genre is ever written into this file, if it was read or heard in this run."""
    if file.row.reason is None or not (file.tags or file.row.id in run.truncated):
        return
    file.reported = True
    run.counts.left_alone += 1
    run.listener.problem(os.fsdecode(file.row.path), file.row.reason)


def _store_found(store: Store, item: Changed, found: dict[str, Any]) -> KnownFile:
    file_tags = Tags.from_json(found["tags"])
    audio = found["audio"]
    stat = Stat(**found["stat"])
    with store.joined():
        known_id = store.known_recording(found["audio_sha256"])
        recording_id = store.add_recording(found["audio_sha256"], **audio) if known_id is None else known_id
        # What is asked of other files of the recording is not asked of one that is new: a large library has many.
        damage = found["damage"] or (store.truncation(recording_id) if known_id else None)
        reason = _no_genre(damage, file_tags.unread)
        is_new = store.file_at(item.path) is None
        if is_new and known_id:
            # The file may have been moved from a place that the walk has not reached yet. That row is marked missing,
            # so that this file takes it over.
            copies = store.files_of(recording_id, MAX_COPIES)
            store.mark_missing([file_id for file_id, path in copies if not is_file(path)])
        file_id = store.put_file(
            item.path,
            stat,
            root_id=item.root_id,
            state="ready",
            reason=reason,
            container=found["container"],
            recording_id=recording_id,
            deaths=0 if is_new else store.deaths(item.path, stat),
            is_new=is_new and not known_id,
        )
        store.put_tags(file_id, tag_columns(file_tags))
    row = FileRow(file_id, recording_id, item.path, found["container"], stat, "ready", reason, None)
    return KnownFile(row, recording_id, file_tags, is_new=not known_id)


def not_read(
    run: Run,
    path: bytes,
    row: FileRow | None,
    stat: Stat,
    root_id: int | None,
    recording_id: int | None,
    error: FileError,
) -> FileFailedError | FileGoneError:
    """Store why a file was not read, and return the error to raise.

    A file that is gone is missing. A file that killed its reader is tried once more.
    """
    if not is_file(path):
        with run.store.transaction():
            run.store.mark_missing([row.id] if row else [])
        return FileGoneError(noted=True)
    state, reason, deaths = error.state, error.reason, 0
    if isinstance(error, DeferredError) and len(run.counts.deferred) < MAX_DEFERRED:
        run.counts.deferred.append(path)
    if isinstance(error, ReaderDiedError):
        deaths = run.store.deaths(path, stat) + error.deaths
        again = deaths < MAX_DEATHS
        state = "deferred" if again else "unreadable"
        reason += "; the next scan tries once more" if again else ", again; left alone until it changes"
    with run.store.transaction():
        run.store.put_file(
            path,
            stat,
            root_id=root_id,
            state=state,
            reason=reason,
            deaths=deaths,
            recording_id=None if state == "unreadable" else recording_id,
        )
    return FileFailedError(reason, state)


def unforeseen(run: Run, item: Item, reason: str) -> FileFailedError:
    """Store the reason of an error that no stage handles, and return the error to raise. The next scan tries again."""
    reason = escaped(reason)
    if isinstance(item, Changed):
        with suppress(OSError):
            row = run.store.file_at(item.path)
            with run.store.transaction():
                run.store.put_file(
                    item.path,
                    Stat.from_result(look(item.path)),
                    root_id=item.root_id,
                    state="deferred",
                    reason=reason,
                    recording_id=row.recording_id if row else None,
                )
    return FileFailedError(reason)
